/* Coding with a prior: samples or symbols, closed loop, one range coder per call.
 *
 * The same bytes as edgeae/runtime/prior_coding.py, which says what each field means.
 */
#ifndef EDGEAE_PRIOR_H
#define EDGEAE_PRIOR_H

#include <stddef.h>
#include <stdint.h>

#include "adaptive.h"
#include "causal.h"
#include "cdf.h"
#include "mixture.h"
#include "pace.h"

#define EAE_LARGEST_INDEX ((1 << 30) - 1)
#define EAE_MAX_LOOKAHEAD 4096

typedef struct {
    int32_t n_channels;
    int32_t by_delta;  /* 1: predict from the sample before; 0: from `center` */
    int32_t lookahead; /* of the code, where there is one */
    int32_t n_cond;    /* constant features */
    const int32_t *center;  /* n_channels of them */
    const int32_t *shift;   /* n_channels: features and means are in units of 2^shift */
    const int32_t *cond;    /* n_cond values */
    const int32_t *statics; /* 2 * n_channels outputs of every step, where there is no net */
    const eae_adaptive *adaptive; /* NULL: the net's word is taken as it is */
    const eae_mixing *mixing;     /* where it is adaptive */
} eae_prior;

/* What an adaptive prior works with. */
typedef struct {
    eae_filters filters;
    eae_mixer mixer;
} eae_adapter;

/* Whether a prior and the net that it is used with (NULL: none) fit. */
int eae_prior_fits(const eae_prior *prior, const eae_net *net, int has_code);

/* Codes x [groups][steps][channels] into out, with a family and a delta per channel; the net, and
 * the adapter of an adaptive prior (else NULL), start afresh for each group. code has x's shape or is NULL. recon (x's shape) gets what the decoder
 * will see. `paced` counts the time steps. Returns the payload's length, EAE_OVERFLOW where cap is
 * too small, EAE_BEHIND where the pace was not kept, or EAE_UNCODABLE where a sample leaves
 * +-EAE_LARGEST_INDEX. */
#define EAE_UNCODABLE ((size_t)-2)
#define EAE_BEHIND ((size_t)-3)
size_t eae_prior_encode(
    const eae_prior *prior, eae_net *net, eae_adapter *adapter, const eae_family *family,
    const int32_t *delta, const int32_t *x, const int32_t *code, size_t groups, size_t steps, int32_t *recon,
    uint8_t *out, size_t cap, eae_paced *paced);

/* Decodes into recon; returns 1, or 0 where the payload is damaged. */
int eae_prior_decode(
    const eae_prior *prior, eae_net *net, eae_adapter *adapter, const eae_family *family,
    const int32_t *delta, const uint8_t *payload, size_t len, const int32_t *code, size_t groups, size_t steps,
    int32_t *recon);

#endif
