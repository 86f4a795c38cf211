#include "mixture.h"

#include <string.h>

#include "shifts.h"

#if defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#define FORGET_BITS 6 /* of the weights */
#define WIDER 5       /* octaves beyond the scale indices */
#define LEAST_TRUST 1024
#define MOST_ORDER 24
#define OF_CHANNEL 4 /* features of every other channel */
#define ONE 64       /* says which channel it is */

static const int32_t scale_step[EAE_PART_MEAN + 1] = {-4, 0, 4, 16, 0};
static const int32_t size_rate[EAE_SIZES] = {4, 6};
static const uint32_t power16[16] = {65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393,
                                     46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219};

static int32_t clip(int32_t v, int32_t low, int32_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* ---- what is remembered ---- */

static int32_t n_features(const eae_mixing *a, int32_t channels)
{
    int32_t across = channels > 1 ? OF_CHANNEL * (channels - 1) + channels : 0;
    return 4 + 2 * a->history + across;
}

int eae_mixing_fits(const eae_mixing *a, int32_t channels)
{
    int32_t c, i;
    if (channels < 1 || channels > EAE_MIX_CHANNELS)
        return 0;
    for (c = 0; c < channels; c++) {
        const int32_t *weight = a->weight + c * EAE_PARTS;
        int64_t sum = 0;
        for (i = 0; i < EAE_PARTS; i++) {
            if (weight[i] < 64 || weight[i] > 65536)
                return 0;
            sum += weight[i];
        }
        if (sum != 65536)
            return 0;
    }
    if (a->learnt == NULL)
        return 1;
    if (a->history < 0 || a->history > EAE_MIX_HISTORY || a->learnt->n_out % 3 != 0 ||
        a->learnt->n_out > 3 * EAE_LEARNT || a->learnt->n_inputs != n_features(a, channels) ||
        a->learnt->feature_peak < EAE_MIX_PEAK)
        return 0;
    for (c = 0; c < channels; c++) {
        if (a->trust[c] < LEAST_TRUST || a->trust[c] > 65536 - LEAST_TRUST)
            return 0;
    }
    return 1;
}

void eae_mixer_reset(eae_mixer *m, const eae_mixing *a, int32_t channels)
{
    int32_t c, i;
    memset(m, 0, sizeof *m);
    if (a->learnt != NULL)
        eae_net_reset(a->learnt);
    for (c = 0; c < channels; c++) {
        for (i = 0; i < EAE_PARTS; i++)
            m->part[c][i] = (uint32_t)a->weight[c * EAE_PARTS + i];
        m->trust[c] = a->learnt != NULL ? (uint32_t)a->trust[c] : 0;
    }
}

/* Sixteenths of a grid step in sixteenths of a scale, within the peak, rounded half to even: a
 * double of this size has no room for fractions. */
static int16_t in_scales(int64_t v, double inverse)
{
    static const double roomless = 6755399441055744.0; /* 1.5 * 2^52 */
    double x = (double)v * inverse;
    x = x > EAE_MIX_PEAK ? EAE_MIX_PEAK : x;
    x = x < -EAE_MIX_PEAK ? -EAE_MIX_PEAK : x;
    x += roomless;
    return (int16_t)(x - roomless);
}

static void push(int64_t *past, int32_t n, int64_t newest)
{
    if (n > 0) {
        memmove(past + 1, past, (size_t)(n - 1) * sizeof *past);
        past[0] = newest;
    }
}

void eae_mixer_learn(
    eae_mixer *m, const eae_mixing *a, int32_t c, int64_t scale16, int64_t missed, int64_t change)
{
    int64_t size = 256 * (missed < 0 ? -missed : missed);
    int32_t begin = 0, i;
    while (begin < 7 && (m->n_seen[c] + 2) >> (begin + 1) > 0)
        begin++;
    m->n_seen[c] += m->n_seen[c] < 1024;
    for (i = 0; i < EAE_SIZES; i++)
        m->size[c][i] += eae_floor_shift(
            size - m->size[c][i], begin < size_rate[i] ? begin : size_rate[i]);
    if (a->learnt == NULL)
        return;
    push(m->error[c], a->history, missed);
    push(m->change[c], a->history, change);
    m->now[c] = in_scales(missed, 16.0 / (double)scale16);
}

void eae_mixer_advance(eae_mixer *m, int32_t channels)
{
    size_t n = (size_t)channels * sizeof *m->now;
    memcpy(m->before, m->now, n);
    memset(m->now, 0, n);
}

/* ---- the parts of one symbol ---- */

/* The scale index nearest to errors of that mean size, 1/4096 of a grid step. */
static int32_t scale_of(int64_t size, int shift)
{
    int64_t wanted = 16 * ((185 * size) / 65536);
    int32_t low = 0, high = EAE_N_SCALES - 1;
    while (low < high) {
        int32_t middle = (low + high + 1) / 2;
        if (15 * ((int64_t)eae_scale16[middle] << shift) <= wanted)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Tells the net how channel c went, and runs it. */
static void ask(
    const eae_mixer *m, const eae_mixing *a, int32_t channels, int32_t c, int32_t ls,
    int64_t scale16, int64_t moved, const int32_t *size_row, int32_t *out)
{
    int16_t *x = eae_net_row(a->learnt);
    double inverse = 16.0 / (double)scale16;
    int32_t i, other;
    *x++ = (int16_t)clip(ls - a->level[c], -EAE_MIX_PEAK, EAE_MIX_PEAK);
    *x++ = in_scales(moved, inverse);
    for (i = 0; i < EAE_SIZES; i++)
        *x++ = (int16_t)(size_row[i] - ls);
    for (i = 0; i < a->history; i++)
        *x++ = in_scales(m->error[c][i], inverse);
    for (i = 0; i < a->history; i++)
        *x++ = in_scales(16 * m->change[c][i], inverse);
    for (other = 0; other < channels; other++) {
        int16_t now = m->now[other], before = m->before[other];
        if (other == c)
            continue;
        *x++ = now;
        *x++ = (int16_t)(now < 0 ? -now : now);
        *x++ = before;
        *x++ = (int16_t)(before < 0 ? -before : before);
    }
    if (channels > 1) {
        for (i = 0; i < channels; i++)
            *x++ = i == c ? ONE : 0;
    }
    eae_net_eval(a->learnt, out);
}

/* The parts that the net gives; the fixed ones share what it leaves. */
static void add_learnt(
    eae_mixture *x, const eae_mixer *m, const eae_family *f, const int32_t *out, int32_t n,
    int32_t c, int32_t ls, int shift, int64_t scale16, int64_t middle)
{
    uint32_t w[EAE_LEARNT], sum = 0, given = 0, trust = m->trust[c];
    int32_t octaves = EAE_MAX_SHIFT - shift, best = out[0], i;
    int32_t top = EAE_N_SCALES - 1 + 6 * (octaves < WIDER ? octaves : WIDER);
    for (i = 1; i < n; i++)
        best = out[i] > best ? out[i] : best;
    for (i = 0; i < n; i++) {
        int32_t d = best - out[i];
        d = d < 255 ? d : 255;
        w[i] = power16[d & 15] >> (d >> 4);
        sum += w[i];
    }
    for (i = 0; i < EAE_PARTS; i++)
        given += x->weight[i] = (x->weight[i] * (65536u - trust)) >> 16;
    for (i = 0; i < n; i++) {
        given += x->weight[EAE_PARTS + i] = (uint32_t)((uint64_t)trust * w[i] / sum);
        x->row[EAE_PARTS + i] = &f->scale[clip(ls + out[2 * n + i], 0, top)];
        x->offset[EAE_PARTS + i] = middle + eae_floor_shift(out[n + i] * scale16 + 8, 4);
    }
    x->weight[1] += 65536u - given;
    x->n += n;
}

void eae_mixture_init(
    eae_mixture *x, eae_mixer *m, const eae_mixing *a, const eae_family *f, int32_t channels,
    int32_t c, int32_t ls, int shift, int64_t base16, int64_t moved)
{
    int64_t scale16 = (int64_t)eae_scale16[ls] * ((int64_t)1 << shift);
    int32_t i, row[EAE_PARTS], widest = 0, out[EAE_MAX_WIDTH];
    if (m->n_seen[c] == 0) { /* a logistic's mean error is 2 ln 2 scales */
        for (i = 0; i < EAE_SIZES; i++)
            m->size[c][i] = 355 * scale16;
    }
    for (i = 0; i < EAE_PARTS; i++) {
        row[i] = i <= EAE_PART_MEAN ? clip(ls + scale_step[i], 0, EAE_N_SCALES - 1)
                                    : scale_of(m->size[c][i - EAE_PART_MEAN - 1], shift);
        x->row[i] = &f->scale[row[i]];
        x->offset[i] = base16 + (i == EAE_PART_MEAN ? 0 : moved);
        widest = row[i] > widest ? row[i] : widest;
    }
    x->n = EAE_PARTS;
    x->wide = &f->scale[widest];
    memcpy(x->weight, m->part[c], sizeof m->part[c]);
    if (a->learnt != NULL) {
        ask(m, a, channels, c, ls, scale16, moved, row + EAE_PART_MEAN + 1, out);
        add_learnt(
            x, m, f, out, a->learnt->n_out / 3, c, ls, shift, scale16, base16 + moved);
    }
}

/* The cumulative frequency below bin j; t gets the parts of it. */
static uint32_t below(const eae_mixture *x, const eae_family *f, int j, uint32_t *t)
{
    const eae_scale *wide = x->wide;
    uint32_t n = 2u * wide->reach + 3u;
    uint64_t sum = 0;
    int64_t edge = wide->width * j - f->half;
    int32_t i;
    for (i = 0; i < x->n; i++) {
        /* a learnt part of no weight counts nowhere; the fixed ones are weighed by themselves */
        int idle = i >= EAE_PARTS && x->weight[i] == 0;
        t[i] = idle ? 0 : eae_shape_at(f, x->row[i], edge - x->offset[i]);
        sum += (uint64_t)x->weight[i] * t[i];
    }
    return (uint32_t)(j + wide->reach + 1) + (((uint32_t)(sum >> 16) * (65536u - n)) >> 16);
}

static void fill(const eae_mixture *x, uint32_t *t, uint32_t value)
{
    int32_t i;
    for (i = 0; i < x->n; i++)
        t[i] = value;
}

/* Of the code of what lies beyond the reach: after the scale of the likeliest part there. */
static int escape_order(const eae_mixture *x, int above)
{
    uint64_t most = 0;
    int64_t bins;
    int32_t i, at = 0, order = -1;
    for (i = 0; i < x->n; i++) {
        uint64_t mass = (uint64_t)x->weight[i] * (above ? 65535u - x->low[i] : x->high[i]);
        if (mass > most) {
            most = mass;
            at = i;
        }
    }
    bins = x->row[at]->limit / 16 / x->wide->width;
    while (bins > 0) {
        order++;
        bins /= 2;
    }
    return clip(order, EAE_ESCAPE_ORDER, MOST_ORDER);
}

void eae_mixture_encode(eae_mixture *x, const eae_family *f, eae_encoder *e, int64_t k)
{
    const eae_scale *wide = x->wide;
    int h = wide->low_bits, reach = wide->reach;
    uint32_t rest = (uint32_t)((uint64_t)k & (((uint64_t)1 << h) - 1u)), lo = 0, hi = 65536;
    int64_t j = (k - (int64_t)rest) / ((int64_t)1 << h);
    fill(x, x->low, 0);
    fill(x, x->high, 65535);
    if (j >= -reach)
        lo = below(x, f, (int)(j > reach ? reach + 1 : j), x->low);
    if (j <= reach)
        hi = below(x, f, (int)(j < -reach ? -reach : j + 1), x->high);
    eae_enc(e, lo, hi - lo);
    if (j < -reach)
        eae_enc_golomb(e, (uint32_t)(-j - reach - 1), escape_order(x, 0));
    else if (j > reach)
        eae_enc_golomb(e, (uint32_t)(j - reach - 1), escape_order(x, 1));
    if (h > 0)
        eae_enc_bits(e, rest, h);
}

int64_t eae_mixture_decode(eae_mixture *x, const eae_family *f, eae_decoder *d)
{
    const eae_scale *wide = x->wide;
    int h = wide->low_bits, reach = wide->reach, j = 0;
    uint32_t here[EAE_MIXED], lo, hi;
    int64_t k;
    lo = below(x, f, 0, here);
    if (eae_dec_below(d, lo)) {
        do {
            hi = lo;
            memcpy(x->high, here, sizeof here);
            j--;
            if (j < -reach) {
                lo = 0;
                fill(x, here, 0);
            } else {
                lo = below(x, f, j, here);
            }
        } while (eae_dec_below(d, lo));
        memcpy(x->low, here, sizeof here);
    } else {
        memcpy(x->low, here, sizeof here);
        hi = below(x, f, 1, here);
        while (j <= reach && !eae_dec_below(d, hi)) {
            lo = hi;
            memcpy(x->low, here, sizeof here);
            j++;
            if (j > reach) {
                hi = 65536u;
                fill(x, here, 65535);
            } else {
                hi = below(x, f, j + 1, here);
            }
        }
        memcpy(x->high, here, sizeof here);
    }
    eae_dec_consume(d, lo, hi - lo);
    k = j;
    if (j < -reach)
        k -= (int64_t)eae_dec_golomb(d, escape_order(x, 0));
    else if (j > reach)
        k += (int64_t)eae_dec_golomb(d, escape_order(x, 1));
    k *= (int64_t)1 << h;
    return h > 0 ? k + (int64_t)eae_dec_bits(d, h) : k;
}

void eae_mixture_learn(const eae_mixture *x, eae_mixer *m, const eae_mixing *a, int32_t c)
{
    uint64_t part[EAE_PARTS], sum = 0, fixed = 0, learnt = 0;
    uint32_t total = 0, *weight = m->part[c];
    const int32_t *first = a->weight + c * EAE_PARTS;
    int32_t i;
    for (i = 0; i < EAE_PARTS; i++) {
        uint32_t span = x->high[i] - x->low[i] + 1u;
        part[i] = (uint64_t)weight[i] * span;
        fixed += (uint64_t)x->weight[i] * span;
        sum += part[i];
    }
    for (i = 0; i < EAE_PARTS; i++) {
        uint32_t share = (uint32_t)((part[i] << 16) / sum);
        weight[i] = share - (share >> FORGET_BITS) + ((uint32_t)first[i] >> FORGET_BITS);
        total += weight[i];
    }
    weight[1] += 65536u - total;
    if (x->n == EAE_PARTS)
        return;
    for (i = EAE_PARTS; i < x->n; i++)
        learnt += (uint64_t)x->weight[i] * (x->high[i] - x->low[i] + 1u);
    i = (int32_t)((learnt << 16) / (learnt + fixed));
    i += (a->trust[c] >> FORGET_BITS) - (i >> FORGET_BITS);
    m->trust[c] = (uint32_t)clip(i, LEAST_TRUST, 65536 - LEAST_TRUST);
}
