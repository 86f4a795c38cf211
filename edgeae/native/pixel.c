#include "pixel.h"

#include <string.h>

#include "range_coder.h"

#define ONE 65536u

int eae_pixel_fits(const eae_pixel *p, const eae_net *net)
{
    int32_t i, last = 0;
    size_t k;
    if (p->levels < 2 || p->levels > EAE_MAX_LEVELS || p->ground < 0 || p->ground >= p->levels ||
        p->n_embed < 1 || p->n_place < 0 || p->n_embed > EAE_MAX_WIDTH ||
        p->n_place > EAE_MAX_WIDTH || net->n_out != p->levels || net->skip.n_taps != 0 ||
        net->n_inputs != p->n_embed + p->n_place + 1 || p->cond < 0 || p->cond > net->feature_peak)
        return 0;
    for (i = 0; i < net->n_inputs; i++)
        if (net->past[i] != (i < p->n_embed))
            return 0;
    for (k = 0; k < (size_t)p->levels * (size_t)p->n_embed; k++)
        if (p->table[k] > net->feature_peak || p->table[k] < -net->feature_peak)
            return 0;
    for (k = 0; k < p->n_steps * (size_t)p->n_place; k++)
        if (p->place[k] > net->feature_peak || p->place[k] < -net->feature_peak)
            return 0;
    for (i = 0; i < 2 * EAE_MAX_LOGIT + 1; i++)
        if (p->flag[i] == 0)
            return 0;
    if (p->weight[0] == 0 || p->bin[0] != 0)
        return 0;
    for (i = 0; i < p->levels; i++) {
        if (p->bin[i] < last || p->bin[i] > last + 1)
            return 0;
        last = p->bin[i];
    }
    if (p->n_bins != last + 1)
        return 0;
    for (i = 0; i < p->n_bins; i++)
        if (p->back[i] >= p->levels)
            return 0;
    return 1;
}

/* Frequencies of the bins beside the ground's: cum[b] to cum[b + 1]. */
static void count(const eae_pixel *p, const int32_t *logit, uint32_t *cum)
{
    const uint32_t own = p->bin[p->ground];
    const uint32_t n = (uint32_t)p->n_bins - 1u;
    uint32_t sums[EAE_MAX_LEVELS] = {0};
    uint32_t total = 0, b;
    uint64_t scale;
    int32_t i, best = INT32_MIN;
    for (i = 0; i < p->levels; i++)
        if (p->bin[i] != own && logit[i] > best)
            best = logit[i];
    for (i = 0; i < p->levels; i++) {
        int32_t below = best - logit[i];
        sums[p->bin[i]] += p->weight[below < 0 ? 0 : below > 255 ? 255 : below];
    }
    sums[own] = 0;
    for (b = 0; b <= n; b++)
        total += sums[b];
    scale = ((uint64_t)(ONE - n) << 32) / total;
    cum[0] = 0;
    for (b = 0; b <= n; b++)
        cum[b + 1] = cum[b] + (b == own ? 0u : 1u + (uint32_t)((sums[b] * scale) >> 32));
    b = own == n ? n - 1u : n; /* the last one takes what is left */
    for (b++; b <= n + 1u; b++)
        cum[b] = ONE;
}

static uint32_t flag_of(const eae_pixel *p, int32_t logit)
{
    logit = logit < -EAE_MAX_LOGIT ? -EAE_MAX_LOGIT : logit > EAE_MAX_LOGIT ? EAE_MAX_LOGIT : logit;
    return p->flag[logit + EAE_MAX_LOGIT];
}

static void set_side(const eae_pixel *p, eae_net *net, size_t t)
{
    int16_t *row = eae_net_row(net) + p->n_embed;
    memcpy(row, p->place + t * (size_t)p->n_place, (size_t)p->n_place * sizeof(int16_t));
    row[p->n_place] = (int16_t)p->cond;
}

static void learn(const eae_pixel *p, eae_net *net, int32_t level)
{
    if (level >= 0)
        memcpy(
            eae_net_row(net), p->table + (size_t)level * (size_t)p->n_embed,
            (size_t)p->n_embed * sizeof(int16_t));
    eae_net_advance(net);
}

size_t eae_pixel_encode(
    const eae_pixel *p, eae_net *net, const uint8_t *x, size_t groups, uint8_t *recon, uint8_t *out,
    size_t cap)
{
    const uint32_t own = p->bin[p->ground];
    int32_t logit[EAE_MAX_LEVELS];
    uint32_t cum[EAE_MAX_LEVELS + 1];
    eae_encoder e;
    size_t g, t;
    eae_enc_init(&e, out, cap);
    for (g = 0; g < groups; g++) {
        eae_net_reset(net);
        for (t = 0; t < p->n_steps; t++) {
            int32_t level = -1;
            set_side(p, net, t);
            eae_net_eval_hidden(net);
            if (p->inside[t]) {
                uint32_t bin = p->bin[*x++];
                level = p->back[bin];
                *recon++ = (uint8_t)level;
                if (p->n_bins > 1) {
                    uint32_t flag = flag_of(p, eae_net_eval_output(net, p->ground));
                    if (bin == own) {
                        eae_enc(&e, 0, flag);
                    } else {
                        eae_enc(&e, flag, ONE - flag);
                        eae_net_eval_head(net, logit);
                        count(p, logit, cum);
                        eae_enc(&e, cum[bin], cum[bin + 1] - cum[bin]);
                    }
                    if (e.pos > e.cap)
                        return EAE_OVERFLOW;
                }
            }
            learn(p, net, level);
        }
    }
    return eae_enc_finish(&e);
}

int eae_pixel_decode(
    const eae_pixel *p, eae_net *net, const uint8_t *payload, size_t len, size_t groups,
    uint8_t *recon)
{
    const uint32_t own = p->bin[p->ground];
    int32_t logit[EAE_MAX_LEVELS];
    uint32_t cum[EAE_MAX_LEVELS + 1];
    eae_decoder d;
    size_t g, t;
    eae_dec_init(&d, payload, len);
    for (g = 0; g < groups; g++) {
        eae_net_reset(net);
        for (t = 0; t < p->n_steps; t++) {
            int32_t level = -1;
            set_side(p, net, t);
            eae_net_eval_hidden(net);
            if (p->inside[t]) {
                uint32_t bin = own;
                if (p->n_bins > 1) {
                    uint32_t flag = flag_of(p, eae_net_eval_output(net, p->ground));
                    if (eae_dec_below(&d, flag)) {
                        eae_dec_consume(&d, 0, flag);
                    } else {
                        eae_dec_consume(&d, flag, ONE - flag);
                        eae_net_eval_head(net, logit);
                        count(p, logit, cum);
                        bin = own == 0 ? 1 : 0;
                        while (bin + 1 < (uint32_t)p->n_bins && !eae_dec_below(&d, cum[bin + 1]))
                            bin++;
                        if (bin == own) /* only damaged bytes come to an empty last bin */
                            bin--;
                        eae_dec_consume(&d, cum[bin], cum[bin + 1] - cum[bin]);
                    }
                    if (d.bad)
                        return 0;
                }
                level = p->back[bin];
                *recon++ = (uint8_t)level;
            }
            learn(p, net, level);
        }
    }
    return eae_dec_finish(&d);
}
