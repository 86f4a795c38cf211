/* The recalling codec of edgeae for pictures of few levels: what stood beside the same neighbours.
 *
 * Writes and reads the same bytes as edgeae/bitstream/levels.py; FORMAT.md, section 8.5, is the
 * description. One channel after the other. Integer arithmetic only. No heap, no globals.
 */
#ifndef EDGEAE_LEVELS_H
#define EDGEAE_LEVELS_H

#include <stddef.h>
#include <stdint.h>

#define EAE_FEW_LEVELS 64
#define EAE_LEVELS_SPARE 12 /* bytes at the end that are taken for a while */

/* Bytes of memory, aligned for uint32_t, that a channel of so many pixels takes to code. */
size_t eae_levels_room(size_t steps);

/* Codes symbol [channels][steps], numbers of levels; level [channels][64] holds each channel's
 * `count` levels, ascending, |level| < 2^30. Steps are whole pictures of width * height. Returns the
 * bytes used, EAE_OVERFLOW where cap was too small. out holds cap + EAE_LEVELS_SPARE bytes. */
size_t eae_levels_encode(
    const uint8_t *symbol, const int32_t *level, const int32_t *count, size_t steps, int channels,
    size_t width, size_t height, void *room, uint8_t *out, size_t cap);

/* Reads what eae_levels_encode wrote, as levels: x [channels][steps]. `symbol` is room for one
 * channel. Returns 0 for damaged bytes. */
int eae_levels_decode(
    const uint8_t *payload, size_t len, int32_t *x, uint8_t *symbol, size_t steps, int channels,
    size_t width, size_t height, void *room);

#endif
