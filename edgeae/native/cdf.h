/* The family of frequency tables of edgeae: the arithmetic of edgeae/bitstream/cdf.py in C99.
 *
 * Nothing is tabulated but the 385 points of a shape and 94 small rows per (delta, shift): the
 * edges that a symbol needs are computed when it is coded. The decoder searches outwards from the
 * mean's bin, by comparing products, so it divides nowhere.
 */
#ifndef EDGEAE_CDF_H
#define EDGEAE_CDF_H

#include "range_coder.h"

#define EAE_N_SCALES 64
#define EAE_N_ROWS 94 /* the scales, and five octaves of wider ones that only mixtures use */
#define EAE_SHAPE_POINTS 385
#define EAE_MAX_DELTA ((1 << 30) - 1)
#define EAE_MAX_SHIFT 20
#define EAE_ESCAPE_ORDER 3

typedef struct {
    int64_t width; /* of a bin, in sixteenths of a grid step */
    int64_t limit; /* edges further out than this lie past the shape's ends */
    uint32_t mult;
    uint8_t zshift;
    uint8_t low_bits;
    uint8_t reach;
} eae_scale;

typedef struct {
    const uint16_t *shape; /* EAE_SHAPE_POINTS values that never fall */
    int64_t half;          /* half a delta, in sixteenths */
    eae_scale scale[EAE_N_ROWS];
} eae_family;

static const uint16_t eae_scale16[EAE_N_SCALES] = {
    2,   2,   3,   3,   3,   4,   4,   4,   5,   6,   6,    7,    8,    9,    10,   11,
    13,  14,  16,  18,  20,  23,  25,  29,  32,  36,  40,   45,   51,   57,   64,   72,
    81,  91,  102, 114, 128, 144, 161, 181, 203, 228, 256,  287,  323,  362,  406,  456,
    512, 575, 645, 724, 813, 912, 1024, 1149, 1290, 1448, 1625, 1825, 2048, 2299, 2580, 2896,
};

/* delta in 1..EAE_MAX_DELTA, shift in 0..EAE_MAX_SHIFT; the shape must outlive the family. */
static inline void eae_family_init(eae_family *f, const uint16_t *shape, int32_t delta, int shift)
{
    int i;
    f->shape = shape;
    f->half = 8 * (int64_t)delta;
    for (i = 0; i < EAE_N_ROWS; i++) {
        eae_scale *row = &f->scale[i];
        int octaves = i < EAE_N_SCALES ? 0 : (i - EAE_N_SCALES) / 6 + 1;
        uint64_t s = (uint64_t)eae_scale16[i - 6 * octaves] << (shift + octaves);
        uint64_t width = (uint64_t)delta;
        uint64_t reach;
        int bits = 0, h = 0;
        while ((s >> bits) != 0)
            bits++;
        while (s > 256 * width) {
            width <<= 1;
            h++;
        }
        reach = 2 + (s + 2 * width - 1) / (2 * width);
        row->width = (int64_t)(16 * width);
        row->limit = (int64_t)(16 * s);
        row->mult = (uint32_t)((((uint64_t)1 << (24 + bits)) + s / 2) / s);
        row->zshift = (uint8_t)(12 + bits);
        row->low_bits = (uint8_t)h;
        row->reach = (uint8_t)(reach < 127 ? reach : 127);
    }
}

/* The shape's value, 0..65535, at an edge: sixteenths of a grid step past the mean. */
static inline uint32_t eae_shape_at(const eae_family *f, const eae_scale *row, int64_t edge)
{
    int32_t z;
    uint32_t i, w;
    if (edge < -row->limit)
        edge = -row->limit;
    if (edge > row->limit)
        edge = row->limit;
    /* a shift of a negative number rounds down on every compiler we know; the offset avoids it */
    z = (int32_t)((edge * (int64_t)row->mult + ((int64_t)1 << (row->zshift + 17))) >> row->zshift) -
        (1 << 17);
    if (z < 1 - 12 * 4096)
        z = 1 - 12 * 4096;
    if (z > 12 * 4096 - 1)
        z = 12 * 4096 - 1;
    i = (uint32_t)(z + 12 * 4096) >> 8;
    w = (uint32_t)(z + 12 * 4096) & 255u;
    return (f->shape[i] * (256u - w) + f->shape[i + 1] * w) >> 8;
}

/* Cumulative frequency below bin j, -reach <= j <= reach + 1. */
static inline uint32_t eae_cum(const eae_family *f, const eae_scale *row, int frac16, int j)
{
    uint32_t n = 2u * row->reach + 3u;
    uint32_t t = eae_shape_at(f, row, row->width * j - f->half - frac16);
    return (uint32_t)(j + row->reach + 1) + ((t * (65536u - n)) >> 16);
}

/* Codes k, |k| < 2^31; ls in 0..63, |frac16| small. */
static inline void eae_cdf_encode(
    const eae_family *f, eae_encoder *e, int ls, int frac16, int64_t k)
{
    const eae_scale *row = &f->scale[ls];
    int h = row->low_bits, reach = row->reach;
    uint32_t low = (uint32_t)((uint64_t)k & (((uint64_t)1 << h) - 1u));
    int64_t j = (k - (int64_t)low) / ((int64_t)1 << h);
    if (j < -reach) {
        eae_enc(e, 0, eae_cum(f, row, frac16, -reach));
        eae_enc_golomb(e, (uint32_t)(-j - reach - 1), EAE_ESCAPE_ORDER);
    } else if (j > reach) {
        uint32_t cum = eae_cum(f, row, frac16, reach + 1);
        eae_enc(e, cum, 65536u - cum);
        eae_enc_golomb(e, (uint32_t)(j - reach - 1), EAE_ESCAPE_ORDER);
    } else {
        uint32_t cum = eae_cum(f, row, frac16, (int)j);
        eae_enc(e, cum, eae_cum(f, row, frac16, (int)j + 1) - cum);
    }
    if (h > 0)
        eae_enc_bits(e, low, h);
}

/* Reads the next k; from damaged bytes any |k| < 2^57. */
static inline int64_t eae_cdf_decode(const eae_family *f, eae_decoder *d, int ls, int frac16)
{
    const eae_scale *row = &f->scale[ls];
    int h = row->low_bits, reach = row->reach, j = 0;
    int64_t k;
    uint32_t lo = eae_cum(f, row, frac16, 0), hi;
    if (eae_dec_below(d, lo)) {
        do {
            hi = lo;
            j--;
            lo = j < -reach ? 0 : eae_cum(f, row, frac16, j);
        } while (eae_dec_below(d, lo));
    } else {
        hi = eae_cum(f, row, frac16, 1);
        while (j <= reach && !eae_dec_below(d, hi)) {
            lo = hi;
            j++;
            hi = j > reach ? 65536u : eae_cum(f, row, frac16, j + 1);
        }
    }
    eae_dec_consume(d, lo, hi - lo);
    k = j;
    if (j < -reach)
        k -= (int64_t)eae_dec_golomb(d, EAE_ESCAPE_ORDER);
    else if (j > reach)
        k += (int64_t)eae_dec_golomb(d, EAE_ESCAPE_ORDER);
    k *= (int64_t)1 << h;
    return h > 0 ? k + (int64_t)eae_dec_bits(d, h) : k;
}

#endif
