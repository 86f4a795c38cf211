/* The classical codec of edgeae: adaptive integer prediction, adaptive tables, range coding.
 *
 * Writes and reads the same bytes as edgeae/bitstream/classical.py; FORMAT.md, section 8, is the
 * description. One channel after the other; every channel begins with its few parameters. Integer
 * arithmetic only. No heap, no globals.
 */
#ifndef EDGEAE_CLASSICAL_H
#define EDGEAE_CLASSICAL_H

#include <stddef.h>
#include <stdint.h>

#define EAE_CLASSICAL_MAX_ORDER 16
#define EAE_CLASSICAL_MAX_SHIFT 28
#define EAE_CLASSICAL_MAX_LAG (1 << 25)

/* What an encoder chose for one channel. */
typedef struct {
    int32_t base;      /* 0..15 a polynomial, 15 + p a linear predictor of order p, 32 planar */
    int32_t filter;    /* 0 none, 1 + 4 * length + rate of the adaptive filter */
    int32_t reference; /* channel that helps to predict, -1 for none */
    int32_t start;     /* first guess of the residual's size: 2^(start - 3) steps */
    int32_t center;    /* in steps of delta; of 1 with a linear predictor */
    int32_t gain;      /* eighths of the reference that are subtracted, -32..31 */
    int32_t pitch;      /* distance of the lattice's points in 2^-pitch_bits, 0 for none */
    int32_t pitch_bits;
    int32_t phase;      /* of the lattice, likewise; -1 for that of the sample before */
    int32_t tally;      /* 0 none, else 1 + the low bits that are left out of it */
    int32_t lag;        /* the channel itself so many steps ago is the reference, 0 for none */
    int32_t reflection[EAE_CLASSICAL_MAX_ORDER];
} eae_classical_params;

/* Codes x [channels][steps]; |x| < 2^30; each channel's delta is odd and below 2^30. For images,
 * width and height tell the raster (else 0, 0). recon [channels][steps] gets what the reader will
 * see, sizes [steps] is scratch. Returns the bytes used, EAE_OVERFLOW where cap was too small. */
size_t eae_classical_encode(
    const int32_t *x, int32_t *recon, uint32_t *sizes, size_t steps, int channels,
    const int32_t *delta, size_t width, size_t height, const eae_classical_params *params,
    uint8_t *out, size_t cap);

/* Codes one channel alone, with the reconstruction of a reference or NULL: to compare choices.
 * spent gets how much of the code's interval is used up, in 1/256 bit. */
size_t eae_classical_try(
    const int32_t *x, const int32_t *reference, int32_t *recon, uint32_t *sizes, size_t steps,
    int32_t delta, size_t width, size_t height, const eae_classical_params *params, uint8_t *out,
    size_t cap, int64_t *spent);

/* Estimates, in 1/16 bit, what the samples of one channel would take with each of n choices of
 * parameters, of which those with a reference use the one given. recon [steps] is scratch. */
void eae_classical_measure(
    const int32_t *x, const int32_t *reference, int32_t *recon, size_t steps, int32_t delta,
    size_t width, size_t height, const eae_classical_params *params, size_t n, int64_t *cost);

/* Reflection coefficients for y, |y| < 2^36, as the parameters hold them; work [n] is scratch. */
void eae_classical_reflect(
    const int64_t *y, int32_t *work, size_t n, int32_t delta,
    int32_t reflection[EAE_CLASSICAL_MAX_ORDER]);

/* Reads what eae_classical_encode wrote. Returns 0 for damaged bytes. */
int eae_classical_decode(
    const uint8_t *payload, size_t len, int32_t *recon, uint32_t *sizes, size_t steps,
    int channels, const int32_t *delta, size_t width, size_t height);

#endif
