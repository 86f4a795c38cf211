/* The mixture of logistics that an adaptive prior codes with: seven fixed parts, and parts that a
 * small net of integers gives. The same numbers as edgeae/runtime/mixture.py, which says what each
 * is.
 */
#ifndef EDGEAE_MIXTURE_H
#define EDGEAE_MIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "causal.h"
#include "cdf.h"

#define EAE_PARTS 7     /* that every mixture has */
#define EAE_PART_MEAN 4 /* the one at the net's own mean */
#define EAE_SIZES 2     /* of recent errors that parts follow, the last of the seven */
#define EAE_LEARNT 8    /* more parts, at most */
#define EAE_MIXED (EAE_PARTS + EAE_LEARNT)
#define EAE_MIX_CHANNELS 16
#define EAE_MIX_HISTORY 24
#define EAE_MIX_PEAK 127 /* of a feature of the mixture's net */

typedef struct {
    const int32_t *weight; /* per channel: of the seven parts at first, of 65536 */
    eae_net *learnt;       /* NULL: no more parts */
    int32_t history;       /* past errors that it reads, and as many changes */
    const int32_t *level;  /* per channel: what tells it the quantizer step */
    const int32_t *trust;  /* per channel: the share of its parts at first, of 65536 */
} eae_mixing;

typedef struct {
    uint32_t part[EAE_MIX_CHANNELS][EAE_PARTS], trust[EAE_MIX_CHANNELS];
    int64_t size[EAE_MIX_CHANNELS][EAE_SIZES]; /* of errors, in 1/4096 of a grid step */
    int32_t n_seen[EAE_MIX_CHANNELS];
    int64_t error[EAE_MIX_CHANNELS][EAE_MIX_HISTORY]; /* past the moved mean, newest first */
    int64_t change[EAE_MIX_CHANNELS][EAE_MIX_HISTORY];
    int16_t now[EAE_MIX_CHANNELS], before[EAE_MIX_CHANNELS]; /* errors in 1/16 scale */
} eae_mixer;

/* One symbol's logistics: where their means lie past the centre, and their tables' rows. */
typedef struct {
    const eae_scale *row[EAE_MIXED], *wide;
    int64_t offset[EAE_MIXED]; /* in sixteenths of a grid step */
    uint32_t weight[EAE_MIXED]; /* of 65536 */
    uint32_t low[EAE_MIXED], high[EAE_MIXED];
    int32_t n;
} eae_mixture;

int eae_mixing_fits(const eae_mixing *a, int32_t channels);
/* Forgets a group. */
void eae_mixer_reset(eae_mixer *m, const eae_mixing *a, int32_t channels);
/* Learns channel c of the step: how far it lay from the moved mean, in sixteenths, and from the
 * step before. scale16: the net's scale, in sixteenths. */
void eae_mixer_learn(
    eae_mixer *m, const eae_mixing *a, int32_t c, int64_t scale16, int64_t missed, int64_t change);
/* Ends a step. */
void eae_mixer_advance(eae_mixer *m, int32_t channels);

/* The mixture for channel c around a centre that base16 has the net's mean past, and moved the
 * filter moves on, in sixteenths. */
void eae_mixture_init(
    eae_mixture *x, eae_mixer *m, const eae_mixing *a, const eae_family *f, int32_t channels,
    int32_t c, int32_t ls, int shift, int64_t base16, int64_t moved);
void eae_mixture_encode(eae_mixture *x, const eae_family *f, eae_encoder *e, int64_t k);
int64_t eae_mixture_decode(eae_mixture *x, const eae_family *f, eae_decoder *d);
/* Weighs the parts of channel c anew by what each gave the symbol just coded. */
void eae_mixture_learn(const eae_mixture *x, eae_mixer *m, const eae_mixing *a, int32_t c);

#endif
