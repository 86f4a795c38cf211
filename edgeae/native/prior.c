#include "prior.h"

#include <string.h>

#include "shifts.h"

/* v in units of 2^shift, rounded half to even and clipped: a feature */
static int16_t feature(int64_t v, int shift, int32_t peak)
{
    v = eae_round_shift(v, shift);
    return (int16_t)(v < -peak ? -peak : v > peak ? peak : v);
}

static int64_t clip_index(int64_t v)
{
    if (v < -(int64_t)EAE_LARGEST_INDEX)
        return -(int64_t)EAE_LARGEST_INDEX;
    return v > EAE_LARGEST_INDEX ? EAE_LARGEST_INDEX : v;
}

int eae_prior_fits(const eae_prior *p, const eae_net *net, int has_code)
{
    int32_t c = p->n_channels, i, conds;
    if (c < 1 || c > EAE_MAX_WIDTH / 2 || p->lookahead < 0 || p->lookahead > EAE_MAX_LOOKAHEAD ||
        p->n_cond < 0 || p->n_cond > EAE_MAX_WIDTH)
        return 0;
    for (i = 0; i < c; i++) {
        if (p->shift[i] < 0 || p->shift[i] > EAE_MAX_SHIFT ||
            p->center[i] > EAE_LARGEST_INDEX || p->center[i] < -EAE_LARGEST_INDEX)
            return 0;
    }
    if (net == NULL)
        return p->statics != NULL && !has_code && p->n_cond == 0 && p->adaptive == NULL;
    if (p->adaptive != NULL &&
        (!eae_adaptive_fits(p->adaptive, c) || !eae_mixing_fits(p->mixing, c)))
        return 0;
    conds = c * (has_code ? 3 : 1);
    if (net->n_out != 2 * c || net->n_inputs != conds + p->n_cond)
        return 0;
    for (i = 0; i < conds; i++) {
        if (net->past[i] != (i < c || i >= 2 * c))
            return 0;
    }
    for (i = 0; i < p->n_cond; i++) {
        if (net->past[conds + i] != 2 || p->cond[i] < 0 || p->cond[i] > net->feature_peak)
            return 0;
    }
    return 1;
}

/* The walk over the steps of one call, the same for both directions. */
typedef struct {
    const eae_prior *prior;
    eae_net *net;
    eae_adapter *adapter; /* NULL: the net's word is taken as it is */
    int32_t first[EAE_MAX_WIDTH / 2]; /* anchors of a group's first step */
    int32_t out[EAE_MAX_WIDTH];
} walk;

static void start_group(walk *w)
{
    if (w->net != NULL)
        eae_net_reset(w->net);
    if (w->adapter != NULL) {
        eae_filters_reset(&w->adapter->filters, w->prior->adaptive, w->prior->n_channels);
        eae_mixer_reset(&w->adapter->mixer, w->prior->mixing, w->prior->n_channels);
    }
}

static void predict(walk *w, const int32_t *code, size_t t, size_t steps)
{
    const eae_prior *p = w->prior;
    size_t n = (size_t)p->n_channels, c;
    int16_t *row;
    if (w->net == NULL)
        return;
    row = eae_net_row(w->net);
    if (code != NULL) {
        size_t at = t + (size_t)p->lookahead, before = at > 0 ? at - 1 : 0;
        if (at > steps - 1)
            at = steps - 1;
        if (before > steps - 1)
            before = steps - 1;
        for (c = 0; c < n; c++)
            row[n + c] = feature(
                (int64_t)code[at * n + c] - code[before * n + c], p->shift[c],
                w->net->feature_peak);
    }
    eae_net_eval(w->net, w->out);
}

typedef struct {
    int64_t anchor, mean, centre, moved;
    int32_t frac16;
    int32_t ls;
    int64_t scale16;
    eae_mixture mixture;
} place;

/* Where channel c of the step is expected; before: the step before, NULL at a group's start. */
static void expect(
    place *at, walk *w, const eae_family *family, const int32_t *before, size_t c)
{
    const eae_prior *p = w->prior;
    int64_t mean = (int64_t)w->out[c] * ((int64_t)1 << p->shift[c]), middle = mean, whole;
    int32_t ls = w->out[(size_t)p->n_channels + c];
    at->mean = mean;
    at->moved = 0;
    at->anchor = !p->by_delta ? p->center[c] : before != NULL ? before[c] : w->first[c];
    at->ls = ls < 0 ? 0 : ls >= EAE_N_SCALES ? EAE_N_SCALES - 1 : ls;
    if (w->adapter != NULL) {
        at->scale16 = (int64_t)eae_scale16[at->ls] * ((int64_t)1 << p->shift[c]);
        at->moved = eae_filters_predict(
            &w->adapter->filters, p->adaptive, p->n_channels, (int32_t)c, at->scale16);
        middle += eae_floor_shift(
            at->moved * (65536 - (int64_t)w->adapter->mixer.part[c][EAE_PART_MEAN]), 16);
    }
    whole = eae_floor_shift(middle + 8, 4);
    at->centre = clip_index(at->anchor + whole);
    at->frac16 = (int32_t)(middle - 16 * whole);
    if (w->adapter != NULL)
        eae_mixture_init(
            &at->mixture, &w->adapter->mixer, p->mixing, family, p->n_channels, (int32_t)c, at->ls,
            p->shift[c], 16 * (at->anchor - at->centre) + mean, at->moved);
}

static void put(place *at, walk *w, const eae_family *family, eae_encoder *e, int64_t k)
{
    if (w->adapter != NULL)
        eae_mixture_encode(&at->mixture, family, e, k);
    else
        eae_cdf_encode(family, e, at->ls, at->frac16, k);
}

static int64_t take(place *at, walk *w, const eae_family *family, eae_decoder *d)
{
    if (w->adapter != NULL)
        return eae_mixture_decode(&at->mixture, family, d);
    return eae_cdf_decode(family, d, at->ls, at->frac16);
}

/* The filters and the weights learn that channel c was r. */
static void adapt(const place *at, walk *w, const int32_t *before, size_t c, int64_t r)
{
    const eae_prior *p = w->prior;
    int64_t error16, change;
    if (w->adapter == NULL)
        return;
    error16 = 16 * (r - at->anchor) - at->mean;
    change = before != NULL ? r - before[c] : 0;
    eae_mixture_learn(&at->mixture, &w->adapter->mixer, p->mixing, (int32_t)c);
    eae_mixer_learn(
        &w->adapter->mixer, p->mixing, (int32_t)c, at->scale16, error16 - at->moved, change);
    eae_filters_learn(
        &w->adapter->filters, p->adaptive, p->n_channels, (int32_t)c, at->scale16, error16,
        change);
}

static void learn(walk *w, const int32_t *recon, const int32_t *before, const int32_t *code)
{
    const eae_prior *p = w->prior;
    size_t n = (size_t)p->n_channels, c;
    int32_t peak;
    int16_t *row;
    if (w->net == NULL)
        return;
    if (w->adapter != NULL) {
        eae_filters_advance(&w->adapter->filters, p->adaptive, p->n_channels);
        eae_mixer_advance(&w->adapter->mixer, p->n_channels);
    }
    row = eae_net_row(w->net);
    peak = w->net->feature_peak;
    for (c = 0; c < n; c++) {
        int64_t d = !p->by_delta     ? (int64_t)recon[c] - p->center[c]
                    : before != NULL ? (int64_t)recon[c] - before[c]
                                     : 0;
        row[c] = feature(d, p->shift[c], peak);
        if (code != NULL)
            row[2 * n + c] = feature((int64_t)recon[c] - code[c], p->shift[c], peak);
    }
    eae_net_advance(w->net);
}

static void init_walk(walk *w, const eae_prior *prior, eae_net *net, eae_adapter *adapter)
{
    w->prior = prior;
    w->net = net;
    w->adapter = prior->adaptive != NULL ? adapter : NULL;
    memset(w->first, 0, sizeof w->first);
    if (net != NULL)
        net->constant = prior->cond;
    else
        memcpy(w->out, prior->statics, 2 * (size_t)prior->n_channels * sizeof(int32_t));
}

size_t eae_prior_encode(
    const eae_prior *prior, eae_net *net, eae_adapter *adapter, const eae_family *family,
    const int32_t *delta, const int32_t *x, const int32_t *code, size_t groups, size_t steps, int32_t *recon,
    uint8_t *out, size_t cap, eae_paced *paced)
{
    size_t n = (size_t)prior->n_channels, g, t, c, head = 0, len;
    walk w;
    eae_encoder e;
    init_walk(&w, prior, net, adapter);
    if (prior->by_delta) {
        for (c = 0; c < n; c++) {
            int64_t v = groups * steps > 0 ? clip_index(x[c]) : 0, half = delta[c] / 2;
            uint64_t zigzag;
            v = v < 0 ? -((half - v) / delta[c]) : (half + v) / delta[c];
            zigzag = v < 0 ? (uint64_t)(-2 * v - 1) : (uint64_t)(2 * v);
            w.first[c] = (int32_t)clip_index(v * delta[c]);
            do {
                if (head >= cap)
                    return EAE_OVERFLOW;
                out[head++] = (uint8_t)((zigzag & 127u) | (zigzag > 127u ? 128u : 0u));
                zigzag >>= 7;
            } while (zigzag > 0);
        }
    }
    eae_enc_init(&e, out + head, cap - head);
    eae_pace_start(paced, groups * steps);
    for (g = 0; g < groups && steps > 0; g++) {
        const int32_t *before = NULL;
        start_group(&w);
        for (t = 0; t < steps; t++) {
            predict(&w, code, t, steps);
            for (c = 0; c < n; c++) {
                place at;
                int64_t d, k, r;
                uint32_t step = (uint32_t)delta[c];
                expect(&at, &w, family + c, before, c);
                d = (int64_t)x[c] - at.centre;
                k = d < 0 ? -(int64_t)(((uint32_t)-d + step / 2) / step)
                          : (int64_t)(((uint32_t)d + step / 2) / step);
                r = at.centre + k * delta[c];
                if (r != clip_index(r) || x[c] != clip_index(x[c]))
                    return EAE_UNCODABLE;
                recon[c] = (int32_t)r;
                put(&at, &w, family + c, &e, k);
                adapt(&at, &w, before, c, r);
            }
            if (e.pos > e.cap)
                return EAE_OVERFLOW;
            if (!eae_pace_count(paced, e.pos))
                return EAE_BEHIND;
            learn(&w, recon, before, code != NULL ? code + t * n : NULL);
            before = recon;
            recon += n;
            x += n;
        }
        memcpy(w.first, recon - steps * n, n * sizeof(int32_t));
        if (code != NULL)
            code += steps * n;
    }
    len = eae_enc_finish(&e);
    return len == EAE_OVERFLOW ? len : head + len;
}

int eae_prior_decode(
    const eae_prior *prior, eae_net *net, eae_adapter *adapter, const eae_family *family,
    const int32_t *delta, const uint8_t *payload, size_t len, const int32_t *code, size_t groups, size_t steps,
    int32_t *recon)
{
    size_t n = (size_t)prior->n_channels, g, t, c, head = 0;
    walk w;
    eae_decoder d;
    init_walk(&w, prior, net, adapter);
    if (prior->by_delta) {
        for (c = 0; c < n; c++) {
            uint64_t zigzag = 0;
            int64_t first;
            int bit = 0;
            uint8_t byte;
            do {
                if (head >= len || bit > 28)
                    return 0;
                byte = payload[head++];
                zigzag |= (uint64_t)(byte & 127u) << bit;
                bit += 7;
            } while (byte > 127u);
            if (zigzag > 2 * (uint64_t)EAE_LARGEST_INDEX)
                return 0;
            first = (zigzag & 1u) ? -(int64_t)((zigzag + 1) / 2) : (int64_t)(zigzag / 2);
            w.first[c] = (int32_t)clip_index(first * delta[c]);
        }
    }
    eae_dec_init(&d, payload + head, len - head);
    for (g = 0; g < groups && steps > 0; g++) {
        const int32_t *before = NULL;
        start_group(&w);
        for (t = 0; t < steps; t++) {
            predict(&w, code, t, steps);
            for (c = 0; c < n; c++) {
                place at;
                int64_t k, r;
                expect(&at, &w, family + c, before, c);
                k = take(&at, &w, family + c, &d);
                if (d.bad || k > INT32_MAX || k < -(int64_t)INT32_MAX)
                    return 0;
                r = at.centre + k * delta[c];
                if (r != clip_index(r))
                    return 0;
                recon[c] = (int32_t)r;
                adapt(&at, &w, before, c, r);
            }
            learn(&w, recon, before, code != NULL ? code + t * n : NULL);
            before = recon;
            recon += n;
        }
        memcpy(w.first, recon - steps * n, n * sizeof(int32_t));
        if (code != NULL)
            code += steps * n;
    }
    return eae_dec_finish(&d);
}
