/* The range coder of edgeae: 32-bit, frequencies out of 65536, byte output with carry.
 *
 * Writes and reads the same bytes as edgeae/bitstream/range_coder.py. C99, no heap, no float.
 * Both sides are safe on any input: an encoder that runs out of room and a decoder that meets
 * impossible bytes remember it and go on with harmless values; ask at the end.
 */
#ifndef EDGEAE_RANGE_CODER_H
#define EDGEAE_RANGE_CODER_H

#include <stddef.h>
#include <stdint.h>

#define EAE_TOP (1u << 24)
#define EAE_MAX_PADDING 8u
#define EAE_OVERFLOW ((size_t)-1)

typedef struct {
    uint64_t low; /* below 2^32 between calls */
    uint32_t range;
    uint8_t *out;
    size_t pos; /* bytes wanted so far; those at and past cap are not stored */
    size_t cap;
} eae_encoder;

typedef struct {
    uint32_t code;
    uint32_t range;
    const uint8_t *in;
    size_t pos;
    size_t len;
    int bad; /* the bytes are not an encoder's: what was decoded since is arbitrary */
} eae_decoder;

/* ---- encoder ---- */

static inline void eae_enc_init(eae_encoder *e, uint8_t *out, size_t cap)
{
    e->low = 0;
    e->range = 0xFFFFFFFFu;
    e->out = out;
    e->pos = 0;
    e->cap = cap;
}

static inline void eae_enc_carry(eae_encoder *e)
{
    size_t i = e->pos;
    e->low &= 0xFFFFFFFFu;
    if (i > e->cap)
        return; /* overflown: the bytes will not be used */
    while (i > 0) {
        i--;
        e->out[i]++;
        if (e->out[i] != 0)
            return;
    }
}

static inline void eae_enc_byte(eae_encoder *e, uint8_t byte)
{
    if (e->pos < e->cap)
        e->out[e->pos] = byte;
    e->pos++;
}

/* Codes the symbol that owns [cum, cum + freq) out of 65536; freq >= 1. */
static inline void eae_enc(eae_encoder *e, uint32_t cum, uint32_t freq)
{
    uint32_t step = e->range >> 16;
    e->low += (uint64_t)step * cum;
    e->range = step * freq;
    if (e->low > 0xFFFFFFFFu)
        eae_enc_carry(e);
    while (e->range < EAE_TOP) {
        eae_enc_byte(e, (uint8_t)(e->low >> 24));
        e->low = (e->low << 8) & 0xFFFFFFFFu;
        e->range <<= 8;
    }
}

/* n in 0..32 equally likely bits, most significant first. */
static inline void eae_enc_bits(eae_encoder *e, uint32_t value, int n)
{
    while (n > 0) {
        int m = n < 16 ? n : 16;
        uint32_t chunk;
        n -= m;
        chunk = (value >> n) & ((1u << m) - 1u);
        eae_enc(e, chunk << (16 - m), 1u << (16 - m));
    }
}

/* Exp-Golomb code of order k; value < 2^32 - 2^k. */
static inline void eae_enc_golomb(eae_encoder *e, uint32_t value, int k)
{
    uint32_t u = value + (1u << k);
    int n = k;
    while (n < 31 && (u >> (n + 1)) != 0) {
        n++;
        eae_enc_bits(e, 1, 1);
    }
    eae_enc_bits(e, 0, 1);
    eae_enc_bits(e, u & ((1u << n) - 1u), n);
}

/* Returns the payload's length, or EAE_OVERFLOW where cap bytes were too few. Needs room for up
 * to 4 bytes more than the payload has. */
static inline size_t eae_enc_finish(eae_encoder *e)
{
    uint64_t end = e->low + e->range;
    uint64_t value = (e->low + 0xFFFFFFFFu) >> 32 << 32;
    size_t shortest;
    int i;
    if (value >= end)
        value = (e->low + 0xFFFFFFu) >> 24 << 24;
    e->low = value;
    if (value > 0xFFFFFFFFu)
        eae_enc_carry(e);
    for (i = 24; i >= 0; i -= 8)
        eae_enc_byte(e, (uint8_t)(e->low >> i));
    if (e->pos > e->cap)
        return EAE_OVERFLOW;
    shortest = e->pos > EAE_MAX_PADDING ? e->pos - EAE_MAX_PADDING : 0;
    while (e->pos > shortest && e->out[e->pos - 1] == 0)
        e->pos--;
    return e->pos;
}

/* ---- decoder ---- */

static inline uint32_t eae_dec_byte(eae_decoder *d)
{
    size_t pos = d->pos++;
    if (pos < d->len)
        return d->in[pos];
    if (pos - d->len >= EAE_MAX_PADDING)
        d->bad = 1;
    return 0;
}

static inline void eae_dec_init(eae_decoder *d, const uint8_t *in, size_t len)
{
    int i;
    d->code = 0;
    d->range = 0xFFFFFFFFu;
    d->in = in;
    d->pos = 0;
    d->len = len;
    d->bad = 0;
    for (i = 0; i < 4; i++)
        d->code = (d->code << 8) | eae_dec_byte(d);
}

/* True where the next symbol lies below cum (0..65536): the search needs no division. */
static inline int eae_dec_below(const eae_decoder *d, uint32_t cum)
{
    return d->code < (d->range >> 16) * cum;
}

static inline void eae_dec_consume(eae_decoder *d, uint32_t cum, uint32_t freq)
{
    uint32_t step = d->range >> 16;
    d->code -= step * cum;
    d->range = step * freq;
    if (d->code >= d->range) {
        d->bad = 1;
        d->code = d->range - 1u;
    }
    while (d->range < EAE_TOP) {
        d->code = (d->code << 8) | eae_dec_byte(d);
        d->range <<= 8;
    }
}

static inline uint32_t eae_dec_bits(eae_decoder *d, int n)
{
    uint32_t value = 0;
    while (n > 0) {
        int m = n < 16 ? n : 16;
        uint32_t chunk = d->code / ((d->range >> 16) << (16 - m));
        n -= m;
        if (chunk > (1u << m) - 1u)
            chunk = (1u << m) - 1u;
        eae_dec_consume(d, chunk << (16 - m), 1u << (16 - m));
        value = (value << m) | chunk;
    }
    return value;
}

static inline uint32_t eae_dec_golomb(eae_decoder *d, int k)
{
    int n = k;
    while (eae_dec_bits(d, 1)) {
        n++;
        if (n > 31) {
            d->bad = 1;
            return 0;
        }
    }
    return eae_dec_bits(d, n) + (1u << n) - (1u << k);
}

/* True where every byte was good and used. */
static inline int eae_dec_finish(const eae_decoder *d)
{
    return !d->bad && d->pos >= d->len;
}

#endif
