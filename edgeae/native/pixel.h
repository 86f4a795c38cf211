/* Coding images with a pixel prior: one level after the other, one range coder per call.
 *
 * The same bytes as edgeae/runtime/pixel_coding.py; pixel_rules.py says what each field means.
 */
#ifndef EDGEAE_PIXEL_H
#define EDGEAE_PIXEL_H

#include <stddef.h>
#include <stdint.h>

#include "causal.h"

#define EAE_MAX_LEVELS 256
#define EAE_MAX_LOGIT 256 /* logits are clipped to +-this */

typedef struct {
    int32_t levels, ground, n_bins; /* n_bins: with the step at hand, the ground's included */
    int32_t n_embed, n_place;
    int32_t cond;
    const int16_t *table;   /* [levels][n_embed] */
    const int16_t *place;   /* [n_steps][n_place] */
    const uint8_t *inside;  /* [n_steps]: the step holds a level */
    size_t n_steps;         /* of an image, margins included */
    const uint16_t *flag;   /* [2 * EAE_MAX_LOGIT + 1] */
    const uint16_t *weight; /* [256] */
    const uint8_t *bin;     /* [levels], ascending from 0 */
    const uint8_t *back;    /* [n_bins]: the level that a bin comes back as */
} eae_pixel;

/* Whether a prior and its net fit, and all of its numbers are in range. */
int eae_pixel_fits(const eae_pixel *prior, const eae_net *net);

/* Codes x: per group as many levels as there are steps inside. recon (like x) gets what the decoder
 * will see. Returns the payload's length, or EAE_OVERFLOW where cap is too small; levels lie below
 * prior->levels. */
size_t eae_pixel_encode(
    const eae_pixel *prior, eae_net *net, const uint8_t *x, size_t groups, uint8_t *recon,
    uint8_t *out, size_t cap);

/* Decodes into recon; returns 1, or 0 where the payload is damaged. */
int eae_pixel_decode(
    const eae_pixel *prior, eae_net *net, const uint8_t *payload, size_t len, size_t groups,
    uint8_t *recon);

#endif
