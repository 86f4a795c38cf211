#include "cells.h"

#include "range_coder.h"

#define ONE 65536
#define ESCAPE_ORDER 2

int eae_cells_fit(const eae_cells *p, const eae_net *net)
{
    int32_t i, k, n = net->n_inputs - 1;
    if (n < 1 || net->n_out != 2 * n || p->cond < 0 || p->cond > net->feature_peak ||
        net->feature_peak != EAE_CELL_PEAK)
        return 0;
    for (i = 0; i <= n; i++)
        if (net->past[i] != (i < n))
            return 0;
    for (i = 0; i < EAE_CELLS; i++) {
        const int32_t *cum = p->cum + i * EAE_CELL_EDGES;
        if (cum[0] != 0 || cum[EAE_CELL_EDGES - 1] != ONE)
            return 0;
        for (k = 1; k < EAE_CELL_EDGES; k++)
            if (cum[k] <= cum[k - 1])
                return 0;
    }
    return 1;
}

typedef struct {
    const int32_t *cum;
    int64_t centre;
    int32_t turn;
} place;

/* Where a symbol is expected: m sixteenths, scale index ls. */
static place expected(const eae_cells *p, int32_t m, int32_t ls)
{
    place at;
    int64_t up = (int64_t)m + 8, rest = (int64_t)((uint64_t)up & 15u);
    int32_t fraction = (int32_t)(rest - 8);
    at.centre = (up - rest) / 16;
    at.turn = fraction < 0 ? -1 : 1;
    ls = ls < EAE_LOWEST_SCALE ? EAE_LOWEST_SCALE : ls > EAE_HIGHEST_SCALE ? EAE_HIGHEST_SCALE : ls;
    at.cum = p->cum + ((ls - EAE_LOWEST_SCALE) * EAE_FRACTIONS + fraction * at.turn) * EAE_CELL_EDGES;
    return at;
}

/* Evaluates the step at hand: means, then scale indices. */
static void predict(const eae_cells *p, eae_net *net, int32_t *out)
{
    eae_net_row(net)[net->n_inputs - 1] = (int16_t)p->cond;
    eae_net_eval(net, out);
}

static void learn(eae_net *net, const int32_t *y)
{
    int16_t *row = eae_net_row(net);
    int32_t c;
    for (c = 0; c < net->n_inputs - 1; c++)
        row[c] = (int16_t)(y[c] < -EAE_CELL_PEAK  ? -EAE_CELL_PEAK
                           : y[c] > EAE_CELL_PEAK ? EAE_CELL_PEAK
                                                  : y[c]);
    eae_net_advance(net);
}

size_t eae_cells_encode(
    const eae_cells *p, eae_net *net, const int32_t *y, size_t groups, size_t steps, uint8_t *out,
    size_t cap)
{
    const int32_t n = net->n_inputs - 1;
    int32_t mean[EAE_MAX_WIDTH], c;
    eae_encoder e;
    size_t g, t;
    eae_enc_init(&e, out, cap);
    for (g = 0; g < groups; g++) {
        eae_net_reset(net);
        for (t = 0; t < steps; t++, y += n) {
            predict(p, net, mean);
            for (c = 0; c < n; c++) {
                place at = expected(p, mean[c], mean[n + c]);
                int64_t k = (y[c] - at.centre) * at.turn, size = k < 0 ? -k : k;
                int32_t symbol = size <= EAE_CELL_REACH ? (int32_t)k + EAE_CELL_REACH + 1
                                 : k < 0                ? 0
                                                        : 2 * EAE_CELL_REACH + 2;
                eae_enc(
                    &e, (uint32_t)at.cum[symbol],
                    (uint32_t)(at.cum[symbol + 1] - at.cum[symbol]));
                if (size > EAE_CELL_REACH)
                    eae_enc_golomb(&e, (uint32_t)(size - EAE_CELL_REACH - 1), ESCAPE_ORDER);
            }
            if (e.pos > e.cap)
                return EAE_OVERFLOW;
            learn(net, y);
        }
    }
    return eae_enc_finish(&e);
}

int eae_cells_decode(
    const eae_cells *p, eae_net *net, const uint8_t *payload, size_t len, size_t groups,
    size_t steps, int32_t *y)
{
    const int32_t n = net->n_inputs - 1;
    int32_t mean[EAE_MAX_WIDTH], c;
    eae_decoder d;
    size_t g, t;
    eae_dec_init(&d, payload, len);
    for (g = 0; g < groups; g++) {
        eae_net_reset(net);
        for (t = 0; t < steps; t++, y += n) {
            predict(p, net, mean);
            for (c = 0; c < n; c++) {
                place at = expected(p, mean[c], mean[n + c]);
                int32_t symbol = 0;
                int64_t k;
                while (symbol < 2 * EAE_CELL_REACH + 2 &&
                       !eae_dec_below(&d, (uint32_t)at.cum[symbol + 1]))
                    symbol++;
                eae_dec_consume(
                    &d, (uint32_t)at.cum[symbol],
                    (uint32_t)(at.cum[symbol + 1] - at.cum[symbol]));
                k = symbol - EAE_CELL_REACH - 1;
                if (k > EAE_CELL_REACH)
                    k += eae_dec_golomb(&d, ESCAPE_ORDER);
                else if (k < -EAE_CELL_REACH)
                    k -= eae_dec_golomb(&d, ESCAPE_ORDER);
                k = at.centre + k * at.turn;
                if (d.bad || k > EAE_LARGEST_SYMBOL || k < -EAE_LARGEST_SYMBOL)
                    return 0;
                y[c] = (int32_t)k;
            }
            learn(net, y);
        }
    }
    return eae_dec_finish(&d);
}
