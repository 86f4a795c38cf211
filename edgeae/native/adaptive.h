/* A least-squares filter per channel, beside the net of a sample prior, that learns from the frame
 * itself, and the mixture of logistics that codes with both.
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

#include "cdf.h"

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "edgeae needs double arithmetic that rounds to double; on x86 compile with -mfpmath=sse"
#endif

#define EAE_PARTS 7            /* of a mixture */
#define EAE_PART_MEAN 4        /* the one at the net's own mean */
#define EAE_SIZES 2            /* of recent errors that parts follow, the last parts */
#define EAE_FILTER_INPUTS 64   /* of a filter, at most */
#define EAE_FILTER_CHANNELS 16 /* channels that filters can follow, at most */
#define EAE_FILTER_TAPS 24
#define EAE_FILTER_CROSS 4

typedef struct {
    int32_t taps;  /* own past errors, and as many own past changes; 0: no filter */
    int32_t cross; /* past errors of each other channel */
    double forget; /* of what was seen a step ago */
    const double *gain; /* per channel: how freely its filter moves at first; 0: it stands still */
    const int32_t *weight; /* per channel: of its parts at first, of 65536 */
} eae_adaptive;

typedef struct {
    int32_t n_inputs; /* rounded up to whole vectors */
    int32_t wide;
    double *weight, *input, *spread, *product; /* [channels][n], [n], [channels][n][n], [n] */
    double *error, *change;                    /* [channels][taps], newest first */
    double *other;                             /* [channels][cross + 1]: newest first */
    uint32_t part[EAE_FILTER_CHANNELS][EAE_PARTS];
    int64_t size[EAE_FILTER_CHANNELS][EAE_SIZES]; /* of errors, in 1/4096 of a grid step */
    int32_t n_seen[EAE_FILTER_CHANNELS];
    int64_t moved[EAE_FILTER_CHANNELS];        /* the last prediction, in sixteenths */
    double guess;                              /* of the last prediction, in scales */
} eae_filters;

/* One step's logistics: where their means lie past the centre, and their tables' rows. */
typedef struct {
    const eae_scale *row[EAE_PARTS], *wide;
    int64_t offset[EAE_PARTS]; /* in sixteenths of a grid step */
    const uint32_t *weight;    /* of 65536 */
    uint32_t low[EAE_PARTS], high[EAE_PARTS];
} eae_mixture;

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

/* The mixture for channel c around a centre that base16 has the net's mean past. */
void eae_mixture_init(
    eae_mixture *m, const eae_filters *a, const eae_family *f, int32_t c, int32_t ls, int shift,
    int64_t base16);
void eae_mixture_encode(eae_mixture *m, const eae_family *f, eae_encoder *e, int64_t k);
int64_t eae_mixture_decode(eae_mixture *m, const eae_family *f, eae_decoder *d);
/* Weighs the parts of channel c anew by what each gave the symbol just coded. */
void eae_mixture_learn(const eae_mixture *m, eae_filters *f, const eae_adaptive *a, int32_t c);

#endif
