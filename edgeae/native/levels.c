/* The recalling codec of edgeae for pictures; see levels.h. */
#include "levels.h"

#include <string.h>

#include "mix.h"
#include "range_coder.h"

#define ORDERS 6
#define NEIGHBOURS 6
#define TRUST 2    /* how many times a shorter past counts */
#define LEAST 16   /* frequency of a bit */
#define MOST 255   /* of what a slot has counted */
#define SLOTS_BITS 22
#define FIRST_ORDER 6 /* Golomb codes: of the first level, */
#define GAP_ORDER 4   /* and of the others' gaps */

typedef struct {
    uint16_t tag;
    uint8_t no, yes;
} slot;

typedef struct {
    slot *slots;
    uint32_t mask;
    int n_levels;
    eae_encoder *encoder; /* or else */
    eae_decoder *decoder;
} levels;

static uint32_t n_slots(size_t steps)
{
    return (uint32_t)1 << eae_bits_for(8 * steps, SLOTS_BITS);
}

size_t eae_levels_room(size_t steps)
{
    return n_slots(steps) * sizeof(slot);
}

/* Codes whether the pixel has the level that is asked for as number `asked`. */
static int code_answer(levels *m, const uint32_t *past, uint32_t asked, int yes)
{
    slot *met[ORDERS];
    uint32_t p = 32768;
    int i;
    for (i = 0; i < ORDERS; i++) {
        const uint32_t hash = eae_mix(past[i], asked);
        slot *s = m->slots + (hash & m->mask);
        if (s->tag != hash >> 16) {
            s->tag = (uint16_t)(hash >> 16);
            s->no = s->yes = 0;
        }
        met[i] = s;
        p = ((uint32_t)s->yes * 65536 + TRUST * p) / ((uint32_t)s->no + s->yes + TRUST);
    }
    p = p < LEAST ? LEAST : p > 65536 - LEAST ? 65536 - LEAST : p;
    if (m->encoder != NULL) {
        eae_enc(m->encoder, yes ? 0 : p, yes ? p : 65536 - p);
    } else {
        yes = eae_dec_below(m->decoder, p);
        eae_dec_consume(m->decoder, yes ? 0 : p, yes ? p : 65536 - p);
    }
    for (i = 0; i < ORDERS; i++) {
        slot *s = met[i];
        if (s->no + s->yes == MOST) {
            s->no >>= 1;
            s->yes >>= 1;
        }
        if (yes)
            s->yes++;
        else
            s->no++;
    }
    return yes;
}

/* Codes a pixel's symbol: asks for its neighbours' levels, then for the others. */
static int code_pixel(levels *m, const int *beside, int symbol)
{
    const int n = m->n_levels, w = beside[0], above = beside[1];
    uint32_t past[ORDERS];
    int asked = 0, k;
    past[0] = 1;
    for (k = 1; k < ORDERS; k++)
        past[k] = eae_mix(past[k - 1], (uint32_t)beside[k - 1]);
    past[ORDERS - 1] = eae_mix(past[ORDERS - 1], (uint32_t)beside[NEIGHBOURS - 1]);
    for (k = -2; k < n; k++) {
        const int level = k == -2 ? w : k == -1 ? above : k;
        if (level >= n || (k == -1 && above == w) || (k >= 0 && (k == w || k == above)))
            continue;
        if (asked == n - 1 || code_answer(m, past, (uint32_t)asked, symbol == level))
            return level;
        asked++;
    }
    return 0; /* not reached: one of the levels is the last */
}

/* `to` is NULL where symbols are written. */
static void code_pictures(
    levels *m, const uint8_t *symbol, uint8_t *to, size_t steps, size_t width, size_t height)
{
    const int none = m->n_levels;
    size_t t;
    for (t = 0; t < steps; t++) {
        const size_t j = t % width, i = t / width % height;
        const int beside[NEIGHBOURS] = {
            j > 0 ? symbol[t - 1] : none,
            i > 0 ? symbol[t - width] : none,
            i > 0 && j > 0 ? symbol[t - width - 1] : none,
            i > 0 && j + 1 < width ? symbol[t - width + 1] : none,
            j > 1 ? symbol[t - 2] : none,
            i > 1 ? symbol[t - 2 * width] : none,
        };
        if (to == NULL)
            code_pixel(m, beside, symbol[t]);
        else
            to[t] = (uint8_t)code_pixel(m, beside, 0);
        if (m->encoder != NULL ? m->encoder->pos > m->encoder->cap : m->decoder->bad)
            return;
    }
}

size_t eae_levels_encode(
    const uint8_t *symbol, const int32_t *level, const int32_t *count, size_t steps, int channels,
    size_t width, size_t height, void *room, uint8_t *out, size_t cap)
{
    levels m = {room, n_slots(steps) - 1, 0, NULL, NULL};
    eae_encoder e;
    size_t n;
    int c, k;
    eae_enc_init(&e, out, cap + EAE_LEVELS_SPARE);
    m.encoder = &e;
    for (c = 0; c < channels; c++, level += EAE_FEW_LEVELS) {
        const uint32_t first = (uint32_t)level[0];
        m.n_levels = count[c];
        memset(room, 0, eae_levels_room(steps));
        eae_enc_bits(&e, (uint32_t)(count[c] - 1), 6);
        eae_enc_golomb(&e, level[0] < 0 ? ~(first << 1) : first << 1, FIRST_ORDER);
        for (k = 1; k < count[c]; k++)
            eae_enc_golomb(&e, (uint32_t)(level[k] - level[k - 1] - 1), GAP_ORDER);
        code_pictures(&m, symbol + (size_t)c * steps, NULL, steps, width, height);
        if (e.pos > e.cap)
            return EAE_OVERFLOW;
    }
    n = eae_enc_finish(&e);
    return n != EAE_OVERFLOW && n <= cap ? n : EAE_OVERFLOW;
}

int eae_levels_decode(
    const uint8_t *payload, size_t len, int32_t *x, uint8_t *symbol, size_t steps, int channels,
    size_t width, size_t height, void *room)
{
    levels m = {room, n_slots(steps) - 1, 0, NULL, NULL};
    eae_decoder d;
    int c, k;
    size_t t;
    eae_dec_init(&d, payload, len);
    m.decoder = &d;
    for (c = 0; c < channels; c++, x += steps) {
        int64_t level[EAE_FEW_LEVELS];
        uint32_t first;
        memset(room, 0, eae_levels_room(steps));
        m.n_levels = (int)eae_dec_bits(&d, 6) + 1;
        first = eae_dec_golomb(&d, FIRST_ORDER);
        level[0] = first & 1 ? -(int64_t)(first >> 1) - 1 : (int64_t)(first >> 1);
        for (k = 1; k < m.n_levels; k++)
            level[k] = level[k - 1] + 1 + eae_dec_golomb(&d, GAP_ORDER);
        if (d.bad || level[m.n_levels - 1] > INT32_MAX)
            return 0;
        code_pictures(&m, symbol, symbol, steps, width, height);
        if (d.bad)
            return 0;
        for (t = 0; t < steps; t++)
            x[t] = (int32_t)level[symbol[t]];
    }
    return eae_dec_finish(&d);
}
