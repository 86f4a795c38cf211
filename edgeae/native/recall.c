/* The recalling codec of edgeae; see recall.h. */
#include "recall.h"

#include <string.h>

#include "mix.h"
#include "pace.h"
#include "range_coder.h"
#include "shapes.h"

#if defined(__GNUC__)
#define FETCH(p) __builtin_prefetch(p, 1)
#else
#define FETCH(p) ((void)0)
#endif

#define CONTEXTS 9
#define INPUTS (CONTEXTS + 2) /* and the match, and a constant */
#define KINDS 64
#define TRUSTS 6
#define MATCHES 4
#define SETS (KINDS * TRUSTS * MATCHES)
#define REACH 3071 /* of a logit, in 1/256 */
#define LEAST 16   /* frequency of a bit */
#define MOST_SEEN 30
#define LEARNT 128
#define WEIGHT 12288 /* 3/16 */
#define WEIGHT_LIMIT (1 << 20)
#define SLOTS_BITS 22
#define PLACES_BITS 20
#define LONGEST 32
#define NEW_SLOT 32768u

typedef struct {
    int32_t weight[INPUTS];
    uint32_t seen;
} mixer;

typedef struct {
    mixer mixers[SETS];
    int16_t logit[4096];
    uint16_t hits[16];
    uint32_t context[CONTEXTS];
    int trust_of_match; /* 0..15 */
    uint32_t slot_mask;
    int places_bits;
    uint32_t *slots, *places;
    size_t limit; /* most bytes */
    eae_paced paced;
    eae_encoder *encoder; /* or else */
    eae_decoder *decoder;
} recall;

/* How fast a count follows, out of 65536, by how often it was met. */
static const uint16_t pace[MOST_SEEN + 1] = {
    50000, 29000, 18724, 14563, 11915, 10082, 8738, 7710, 6898, 6241, 5698, 5242, 4854, 4519, 4228, 3971,
    3744,  3542,  3360,  3196,  3048,  2912,  2788, 2674, 2570, 2473, 2383, 2299, 2221, 2148, 2080};

static inline int top_bit(uint32_t v) /* v > 0 */
{
    int n = 0;
    while (v >>= 1)
        n++;
    return n;
}

/* A number's sign and size, by half octaves. */
static inline int32_t size_class(int64_t v)
{
    uint64_t a = (uint64_t)(v < 0 ? -v : v);
    int32_t n = (int32_t)a;
    if (a >= 3) {
        int b = 0;
        uint64_t rest = a;
        while (rest >>= 1)
            b++;
        n = 2 * b + (int32_t)(a >> (b - 1) & 1);
    }
    return v < 0 ? -n - 1 : n;
}

static inline int32_t squash(int64_t x)
{
    int32_t u;
    x = x > REACH ? REACH : x < -REACH ? -REACH : x;
    u = (int32_t)x + REACH + 1;
    return (eae_shape_logistic[u >> 4] * (16 - (u & 15)) +
            eae_shape_logistic[(u >> 4) + 1] * (u & 15)) >> 4;
}

size_t eae_recall_room(size_t steps)
{
    const size_t many = steps < (size_t)1 << 25 ? steps : (size_t)1 << 25;
    return sizeof(recall) + ((size_t)4 << eae_bits_for(64 * many, SLOTS_BITS)) +
           ((size_t)4 << eae_bits_for(2 * many, PLACES_BITS));
}

static recall *begin(void *room, size_t steps)
{
    const size_t many = steps < (size_t)1 << 25 ? steps : (size_t)1 << 25;
    const int bits = eae_bits_for(64 * many, SLOTS_BITS);
    recall *m = room;
    int p, x = -REACH;
    m->slot_mask = (1u << bits) - 1;
    m->places_bits = eae_bits_for(2 * many, PLACES_BITS);
    m->slots = (uint32_t *)(m + 1);
    m->places = m->slots + ((size_t)1 << bits);
    for (p = 0; p < 4096; p++) {
        while (x < REACH && squash(x) < 16 * p + 8)
            x++;
        m->logit[p] = (int16_t)x;
    }
    return m;
}

static void begin_channel(recall *m)
{
    int i, j;
    memset(m->slots, 0, ((size_t)m->slot_mask + 1) * 4);
    memset(m->places, 0, (size_t)4 << m->places_bits);
    for (i = 0; i < SETS; i++) {
        for (j = 0; j < INPUTS; j++)
            m->mixers[i].weight[j] = j < INPUTS - 1 ? WEIGHT : 0;
        m->mixers[i].seen = 0;
    }
    for (i = 0; i < 16; i++)
        m->hits[i] = 49152;
}

static int code_yes(recall *m, int bit, int32_t yes)
{
    if (m->encoder != NULL) {
        eae_enc(m->encoder, bit ? 0u : (uint32_t)yes, (uint32_t)(bit ? yes : 65536 - yes));
        return bit;
    }
    bit = eae_dec_below(m->decoder, (uint32_t)yes);
    eae_dec_consume(m->decoder, bit ? 0u : (uint32_t)yes, (uint32_t)(bit ? yes : 65536 - yes));
    return bit;
}

/* Codes one bit of a symbol: `node` is its place in the symbol, `expected` the bit of the match, -1
 * where there is none. */
static int code_bit(recall *m, int bit, uint32_t node, int kind, int expected)
{
    uint32_t *slot[CONTEXTS], hash[CONTEXTS];
    int32_t input[INPUTS], seen[CONTEXTS], yes, error;
    int64_t sum = 0;
    int i, trust, pull;
    mixer *w;
    for (i = 0; i < CONTEXTS; i++) { /* memory is slow: ask for all slots before the first is read */
        hash[i] = eae_mix(m->context[i], node);
        slot[i] = &m->slots[hash[i] & m->slot_mask];
        FETCH(slot[i]);
    }
    for (i = 0; i < CONTEXTS; i++) {
        if (*slot[i] >> 22 != hash[i] >> 22 || *slot[i] == 0)
            *slot[i] = (hash[i] >> 22 << 22) | NEW_SLOT;
        seen[i] = *slot[i] >> 16 & 63;
        input[i] = seen[i] > 0 ? m->logit[(*slot[i] & 65535) >> 4] : 0;
    }
    trust = seen[6] > 0 ? 4 + (seen[6] > 2) : (seen[2] > 0) + (seen[3] > 0) + (seen[4] > 0);
    input[CONTEXTS] = 0;
    if (expected >= 0)
        input[CONTEXTS] = (expected ? 1 : -1) * m->logit[m->hits[m->trust_of_match] >> 4];
    input[CONTEXTS + 1] = 256;
    w = &m->mixers[(kind * TRUSTS + trust) * MATCHES + (expected < 0 ? 0 : 1 + m->trust_of_match / 6)];
    for (i = 0; i < INPUTS; i++)
        sum += (int64_t)w->weight[i] * input[i];
    yes = squash(sum >> 16);
    yes = yes < LEAST ? LEAST : yes > 65536 - LEAST ? 65536 - LEAST : yes;
    bit = code_yes(m, bit, yes);

    error = (bit ? 65535 : 0) - yes;
    pull = 13 + (w->seen >= 32) + (w->seen >= 64) + (w->seen >= 128);
    w->seen += w->seen < LEARNT;
    for (i = 0; i < INPUTS; i++) {
        int32_t v = w->weight[i] + ((error * input[i] + (1 << (pull - 1))) >> pull);
        w->weight[i] = v > WEIGHT_LIMIT ? WEIGHT_LIMIT : v < -WEIGHT_LIMIT ? -WEIGHT_LIMIT : v;
    }
    for (i = 0; i < CONTEXTS; i++) {
        const int32_t p = *slot[i] & 65535, n = *slot[i] >> 16 & 63;
        const int32_t next = p + (int32_t)(((int64_t)((bit ? 65535 : 0) - p) * pace[n]) >> 16);
        *slot[i] = (*slot[i] >> 22 << 22) | (uint32_t)(n < MOST_SEEN ? n + 1 : n) << 16 |
                   (uint32_t)next;
    }
    if (expected >= 0) {
        uint16_t *hit = &m->hits[m->trust_of_match];
        const int32_t next = *hit + (((expected == bit ? 65535 : 0) - *hit) >> 6);
        *hit = (uint16_t)next;
    }
    return bit;
}

/* Codes a difference; `expected` is the match's, if there is one. */
static int64_t code_difference(recall *m, int64_t d, int matched, int64_t expected)
{
    const uint32_t size = (uint32_t)(d < 0 ? -d : d), other = (uint32_t)(expected < 0 ? -expected : expected);
    uint32_t path = 1, node;
    int i, sign, n = 0, bits = size > 0 ? top_bit(size) : 0, theirs = other > 0 ? top_bit(other) : 0;
    if (code_bit(m, d == 0, 1, 0, matched ? expected == 0 : -1))
        return 0;
    matched = matched && expected != 0;
    sign = code_bit(m, d < 0, 2, 1, matched ? expected < 0 : -1);
    matched = matched && (expected < 0) == sign;
    node = 256 + 64 * (uint32_t)sign;
    for (n = 0; n < 32; n++) { /* the number of bits below the first */
        const int bit = code_bit(
            m, n < bits, node + 2 * (uint32_t)n, 2 + (n < 13 ? n : 13), matched ? n < theirs : -1);
        matched = matched && bit == (n < theirs);
        if (!bit)
            break;
    }
    if (n > 31) {
        if (m->decoder != NULL)
            m->decoder->bad = 1;
        return 0;
    }
    for (i = n - 1; i >= 0; i--) {
        const int depth = n - 1 - i, hint = other >> i & 1;
        const int bit = code_bit(
            m, size >> i & 1, eae_mix(node + (uint32_t)n, path) | 0x80000000u,
            16 + 12 * (depth < 3 ? depth : 3) + (i < 11 ? i : 11), matched ? hint : -1);
        matched = matched && bit == hint;
        path = path * 2 + (uint32_t)bit;
    }
    return sign ? -(int64_t)path : (int64_t)path;
}

static int32_t nearest(int64_t x, int32_t delta)
{
    const int64_t size = (x < 0 ? -x : x) + delta / 2;
    return (int32_t)(x < 0 ? -(size / delta) : size / delta);
}

static int32_t code_first(recall *m, int32_t q)
{
    uint32_t z;
    if (m->encoder != NULL) {
        eae_enc_golomb(m->encoder, q < 0 ? 2 * (uint32_t)(-1 - q) + 1 : 2 * (uint32_t)q, 6);
        return q;
    }
    z = eae_dec_golomb(m->decoder, 6);
    return z & 1 ? -1 - (int32_t)(z >> 1) : (int32_t)(z >> 1);
}

/* Returns 0 where it gave up or the bytes are damaged. */
static int code_channel(recall *m, const int32_t *x, int32_t *q, size_t steps, int32_t delta)
{
    const int64_t limit = (INT64_C(0x7fffffff)) / delta;
    int64_t d[6] = {0, 0, 0, 0, 0, 0}, usual = 0;
    size_t t, at = 0; /* at: where the match goes on, 0 for none */
    int length = 0, i;
    begin_channel(m);
    for (t = 0; t < steps; t++) {
        const int32_t now = m->encoder != NULL ? nearest(x[t], delta) : 0;
        if (t == 0) {
            q[0] = code_first(m, now);
            if (q[0] > limit || q[0] < -limit)
                return 0;
        } else {
            const int64_t last = q[t - 1];
            uint32_t *c = m->context, h;
            int64_t found;
            c[0] = 99;
            c[1] = eae_mix(1, (uint32_t)d[0]);
            c[2] = eae_mix(c[1], (uint32_t)d[1]);
            h = eae_mix(eae_mix(c[2], (uint32_t)d[2]), (uint32_t)d[3]);
            c[3] = h;
            c[4] = eae_mix(eae_mix(h, (uint32_t)d[4]), (uint32_t)d[5]);
            c[5] = eae_mix(2, (uint32_t)last);
            c[6] = eae_mix(eae_mix(c[5], (uint32_t)d[0]), (uint32_t)d[1]);
            c[7] = eae_mix(eae_mix(3, (uint32_t)size_class(usual >> 4)), (uint32_t)size_class(d[0]));
            c[8] = eae_mix(eae_mix(4, (uint32_t)size_class(d[0])), (uint32_t)size_class(d[1]));
            m->trust_of_match = length < 15 ? length : 15;
            found = code_difference(m, now - last, at > 0, at > 0 ? q[at] - last : 0);
            if (last + found > limit || last + found < -limit || (m->decoder != NULL && m->decoder->bad))
                return 0;
            q[t] = (int32_t)(last + found);
            for (i = 5; i > 0; i--)
                d[i] = d[i - 1];
            d[0] = found;
            usual += (256 * (found < 0 ? -found : found) - usual) >> 3;
            if (at > 0 && q[at] == q[t]) {
                length++;
                at++;
            } else {
                at = 0;
                length = 0;
            }
        }
        if (t >= 2) {
            uint32_t *place = &m->places
                [eae_mix(eae_mix((uint32_t)q[t], (uint32_t)q[t - 1]), (uint32_t)q[t - 2]) >> (32 - m->places_bits)];
            if (at == 0 && *place > 0) {
                at = *place;
                while (length < LONGEST && (size_t)length < at && q[at - 1 - (size_t)length] == q[t - (size_t)length])
                    length++;
                if (length < 2) {
                    at = 0;
                    length = 0;
                }
            }
            *place = (uint32_t)(t + 1);
        }
        if (m->encoder != NULL &&
            (!eae_pace_count(&m->paced, m->encoder->pos) || m->encoder->pos > m->limit))
            return 0;
    }
    for (t = 0; t < steps; t++)
        q[t] *= delta;
    return 1;
}

size_t eae_recall_encode(
    const int32_t *x, int32_t *recon, size_t steps, int channels, const int32_t *delta, void *room,
    uint8_t *out, size_t cap, const int64_t *pace)
{
    recall *m = begin(room, steps);
    eae_encoder e;
    size_t n = steps * (size_t)channels;
    int c;
    eae_enc_init(&e, out, cap + 4);
    m->encoder = &e;
    m->decoder = NULL;
    m->limit = cap;
    m->paced.pace = pace;
    m->paced.marks = NULL;
    eae_pace_start(&m->paced, n);
    for (c = 0; c < channels; c++) {
        const size_t before = (size_t)c * steps;
        if (!code_channel(m, x + before, recon + before, steps, delta[c]))
            return EAE_OVERFLOW;
    }
    n = eae_enc_finish(&e);
    return n <= cap ? n : EAE_OVERFLOW;
}

int eae_recall_decode(
    const uint8_t *payload, size_t len, int32_t *recon, size_t steps, int channels,
    const int32_t *delta, void *room)
{
    recall *m = begin(room, steps);
    eae_decoder d;
    int c;
    eae_dec_init(&d, payload, len);
    m->encoder = NULL;
    m->decoder = &d;
    for (c = 0; c < channels; c++) {
        const size_t before = (size_t)c * steps;
        if (!code_channel(m, NULL, recon + before, steps, delta[c]))
            return 0;
    }
    return eae_dec_finish(&d);
}
