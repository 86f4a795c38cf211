/* Tallies: symbols of the classical codec that were seen before, and how often.
 *
 * The twin of edgeae/bitstream/classical_tally.py; FORMAT.md, section 8.3. No heap, no globals.
 */
#ifndef EDGEAE_TALLY_H
#define EDGEAE_TALLY_H

#include <stdint.h>

#include "range_coder.h"

#define TALLY_SYMBOLS 256
#define TALLY_FULL 4096
#define TALLY_ONCE 32

typedef struct {
    int64_t symbol[TALLY_SYMBOLS];
    uint32_t count[TALLY_SYMBOLS];
    int used;
    uint32_t total;  /* of all 2 count - 1 */
    uint32_t unique; /* symbols seen once, and those that found no place */
    uint32_t seen;
} tally;

static void tally_init(tally *y)
{
    y->used = 0;
    y->total = y->unique = y->seen = 0;
}

/* Frequencies: new symbols come first, with 2 unique + 1; then each known one with 2 count - 1. */
static inline uint32_t tally_all(const tally *y)
{
    return y->total + 2 * y->unique + 1;
}

static inline uint32_t tally_share(uint32_t part, uint32_t all)
{
    return (uint32_t)(((uint64_t)part << 16) / all);
}

static void tally_halve(tally *y)
{
    int i, once = 0, kept = 0;
    for (i = 0; i < y->used; i++)
        once += y->count[i] == 1;
    y->total = y->seen = 0;
    y->unique = y->unique / 2;
    for (i = 0; i < y->used; i++) {
        if (y->count[i] == 1 && once > TALLY_ONCE)
            continue; /* forgotten: most of what is new comes only once */
        y->symbol[kept] = y->symbol[i];
        y->count[kept] = (y->count[i] + 1) / 2;
        y->total += 2 * y->count[kept] - 1;
        y->seen += y->count[kept++];
    }
    y->used = kept;
}

/* Counts the symbol at place i, or a new one where i is negative. */
static void tally_learn(tally *y, int i, int64_t symbol)
{
    if (i >= 0) {
        y->unique -= y->count[i] == 1 && y->unique > 0;
        y->count[i]++;
        y->total += 2;
        if (i > 0 && y->count[i] > y->count[i - 1]) {
            uint32_t count = y->count[i];
            int64_t s = y->symbol[i];
            y->count[i] = y->count[i - 1];
            y->symbol[i] = y->symbol[i - 1];
            y->count[i - 1] = count;
            y->symbol[i - 1] = s;
        }
    } else {
        y->unique++;
        if (y->used < TALLY_SYMBOLS) {
            y->symbol[y->used] = symbol;
            y->count[y->used++] = 1;
            y->total++;
        }
    }
    if (++y->seen >= TALLY_FULL)
        tally_halve(y);
}

/* Codes a symbol if it is known, and tells so; else that it is new. */
static int tally_encode(tally *y, eae_encoder *e, int64_t symbol)
{
    const uint32_t all = tally_all(y);
    uint32_t from = 2 * y->unique + 1, to;
    int i;
    for (i = 0; i < y->used; i++) {
        if (y->symbol[i] == symbol) {
            to = tally_share(from + 2 * y->count[i] - 1, all);
            from = tally_share(from, all);
            eae_enc(e, from, to - from);
            tally_learn(y, i, symbol);
            return 1;
        }
        from += 2 * y->count[i] - 1;
    }
    eae_enc(e, 0, tally_share(2 * y->unique + 1, all));
    tally_learn(y, -1, symbol);
    return 0;
}

/* Reads a known symbol; where there is none, the new one is to be told to tally_learn. */
static int tally_decode(tally *y, eae_decoder *d, int64_t *symbol)
{
    const uint32_t all = tally_all(y);
    uint32_t from = 2 * y->unique + 1, to;
    int i;
    if (eae_dec_below(d, tally_share(from, all))) {
        eae_dec_consume(d, 0, tally_share(from, all));
        return 0;
    }
    for (i = 0; i < y->used; i++) {
        to = from + 2 * y->count[i] - 1;
        if (i == y->used - 1 || eae_dec_below(d, tally_share(to, all)))
            break;
        from = to;
    }
    if (i >= y->used) { /* no symbol is known: damage */
        d->bad = 1;
        *symbol = 0;
        return 1;
    }
    to = tally_share(from + 2 * y->count[i] - 1, all);
    from = tally_share(from, all);
    eae_dec_consume(d, from, to - from);
    *symbol = y->symbol[i];
    tally_learn(y, i, *symbol);
    return 1;
}

#endif
