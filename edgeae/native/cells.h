/* Coding latent symbols with a cell prior: the same bytes as edgeae/runtime/cell_prior.py, which
 * says what is coded.
 */
#ifndef EDGEAE_CELLS_H
#define EDGEAE_CELLS_H

#include <stddef.h>
#include <stdint.h>

#include "causal.h"

#define EAE_LOWEST_SCALE (-8)
#define EAE_HIGHEST_SCALE 63
#define EAE_FRACTIONS 9
#define EAE_CELLS ((EAE_HIGHEST_SCALE - EAE_LOWEST_SCALE + 1) * EAE_FRACTIONS)
#define EAE_CELL_REACH 12
#define EAE_CELL_EDGES (2 * EAE_CELL_REACH + 4)
#define EAE_CELL_PEAK 127
#define EAE_LARGEST_SYMBOL (1 << 20)

typedef struct {
    const int32_t *cum; /* [EAE_CELLS][EAE_CELL_EDGES]: 0, ascending, 65536 */
    int32_t cond;
} eae_cells;

/* Whether a prior and its net fit. */
int eae_cells_fit(const eae_cells *prior, const eae_net *net);

/* Codes y [groups][steps][net->n_inputs - 1]; the net starts afresh for each group. Returns the
 * payload's length, or EAE_OVERFLOW where cap is too small. */
size_t eae_cells_encode(
    const eae_cells *prior, eae_net *net, const int32_t *y, size_t groups, size_t steps,
    uint8_t *out, size_t cap);

/* Decodes into y; returns 1, or 0 where the payload is damaged. */
int eae_cells_decode(
    const eae_cells *prior, eae_net *net, const uint8_t *payload, size_t len, size_t groups,
    size_t steps, int32_t *y);

#endif
