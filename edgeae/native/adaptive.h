/* A least-squares filter per channel, beside the net of a sample prior, that learns from the frame
 * itself.
 *
 * The same numbers as edgeae/runtime/adaptive.py, which says what each is. The filter computes in
 * IEEE 754 doubles: +, -, *, / and sqrt, each rounded once, in an order that is written down, so
 * that every machine gets the same bits. No fused multiply-add, no reassociation.
 */
#ifndef EDGEAE_ADAPTIVE_H
#define EDGEAE_ADAPTIVE_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "edgeae needs double arithmetic that rounds to double; on x86 compile with -mfpmath=sse"
#endif

#define EAE_FILTER_INPUTS 64   /* of a filter, at most */
#define EAE_FILTER_CHANNELS 16 /* channels that filters can follow, at most */
#define EAE_FILTER_TAPS 24
#define EAE_FILTER_CROSS 4

typedef struct {
    int32_t taps;  /* own past errors, and as many own past changes; 0: no filter */
    int32_t cross; /* past errors of each other channel */
    double forget; /* of what was seen a step ago */
    const double *gain; /* per channel: how freely its filter moves at first; 0: it stands still */
} eae_adaptive;

typedef struct {
    int32_t n_inputs; /* rounded up to whole vectors */
    int32_t wide;
    double *weight, *input, *spread, *product; /* [channels][n], [n], [channels][n][n], [n] */
    double *error, *change;                    /* [channels][taps], newest first */
    double *other;                             /* [channels][cross + 1]: newest first */
    double guess;                              /* of the last prediction, in scales */
} eae_filters;

int eae_adaptive_fits(const eae_adaptive *a, int32_t channels);
size_t eae_filters_size(const eae_adaptive *a, int32_t channels);
void eae_filters_init(eae_filters *f, const eae_adaptive *a, int32_t channels, void *arena);
/* Forgets a group. */
void eae_filters_reset(eae_filters *f, const eae_adaptive *a, int32_t channels);

/* How far past the net's mean channel c will lie, in sixteenths of a grid step. scale16: the net's
 * scale in sixteenths. */
int64_t eae_filters_predict(
    eae_filters *f, const eae_adaptive *a, int32_t channels, int32_t c, int64_t scale16);
/* Learns channel c of the step: what it was past the net's mean, in sixteenths, and past the step
 * before. Call it in the order of the channels, each after its predict. */
void eae_filters_learn(
    eae_filters *f, const eae_adaptive *a, int32_t channels, int32_t c, int64_t scale16,
    int64_t error16, int64_t change);
/* Ends a step. */
void eae_filters_advance(eae_filters *f, const eae_adaptive *a, int32_t channels);

#endif
