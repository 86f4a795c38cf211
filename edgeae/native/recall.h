/* The recalling codec of edgeae: what came after the same past before, and how often.
 *
 * Writes and reads the same bytes as edgeae/bitstream/recall.py; FORMAT.md, section 8.4, is the
 * description. One channel after the other. Integer arithmetic only. No heap, no globals.
 */
#ifndef EDGEAE_RECALL_H
#define EDGEAE_RECALL_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of memory, aligned for uint32_t, that channels of so many steps take to code. */
size_t eae_recall_room(size_t steps);

/* Codes x [channels][steps], |x| < 2^30; each channel's delta is odd and below 2^30. recon
 * [channels][steps] gets what the reader will see. Returns the bytes used, EAE_OVERFLOW where cap
 * was too small, and where it fell behind the pace (of EAE_MARKS marks, or NULL: pace.h). out holds
 * cap + 4 bytes. */
size_t eae_recall_encode(
    const int32_t *x, int32_t *recon, size_t steps, int channels, const int32_t *delta, void *room,
    uint8_t *out, size_t cap, const int64_t *pace);

/* Reads what eae_recall_encode wrote. Returns 0 for damaged bytes. */
int eae_recall_decode(
    const uint8_t *payload, size_t len, int32_t *recon, size_t steps, int channels,
    const int32_t *delta, void *room);

#endif
