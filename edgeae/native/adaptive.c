#include "adaptive.h"

#include <math.h>
#include <string.h>

#if defined(_MSC_VER)
#pragma fp_contract(off)
#endif

/* The inner loops go over whole vectors of 8 and are the same source for all machines; with
 * -ffp-contract=off no compiler may change what they compute. */
#if defined(__GNUC__) && defined(__x86_64__) && !defined(EAE_NO_CLONES)
#define EAE_WIDE __attribute__((target("avx2")))
#define EAE_WIDEST __attribute__((target("avx512f,prefer-vector-width=512")))
#endif

#define VECTOR 8
#define LEAD 4.0      /* a filter moves the mean by at most this many scales */
#define PEAK 6.0      /* an error counts as at most this many scales */
#define TOP 1.0       /* the spread grows no further */

/* ---- inner loops ---- */

#define TIMES(attribute, name, count) \
    attribute static void name##_times_##count( \
        double *y, const double *row, const double *x, int32_t n) \
    { \
        double sum[count * VECTOR] = {0}; \
        int32_t j, k; \
        for (j = 0; j < n; j++, row += n) { \
            for (k = 0; k < count * VECTOR; k++) \
                sum[k] += row[k] * x[j]; \
        } \
        memcpy(y, sum, sizeof sum); \
    }

#define INNER(attribute, name) \
    attribute static double name##_dot(const double *a, const double *b, int32_t n) \
    { \
        double sum[VECTOR] = {0}; \
        int32_t i, k; \
        for (i = 0; i < n; i += VECTOR) { \
            for (k = 0; k < VECTOR; k++) \
                sum[k] += a[i + k] * b[i + k]; \
        } \
        return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])); \
    } \
    /* count vectors of y = spread . x, from entry i on; spread is symmetric */ \
    TIMES(attribute, name, 1) \
    TIMES(attribute, name, 4) \
    attribute static void name##_times( \
        double *y, const double *spread, const double *x, int32_t n) \
    { \
        int32_t i = 0; \
        for (; i + 4 * VECTOR <= n; i += 4 * VECTOR) \
            name##_times_4(y + i, spread + i, x, n); \
        for (; i < n; i += VECTOR) \
            name##_times_1(y + i, spread + i, x, n); \
    } \
    attribute static void name##_narrow( \
        double *spread, const double *v, int32_t n, double growth) \
    { \
        int32_t i, j, k; \
        for (j = 0; j < n; j++, spread += n) { \
            double vj = v[j]; \
            for (i = 0; i < n; i += VECTOR) { \
                for (k = 0; k < VECTOR; k++) \
                    spread[i + k] = (spread[i + k] - v[i + k] * vj) * growth; \
            } \
        } \
    }

INNER(, plain)
#ifdef EAE_WIDE
INNER(EAE_WIDE, wide)
INNER(EAE_WIDEST, widest)
#define CALL(f, name, ...) \
    ((f)->wide == 2   ? widest_##name(__VA_ARGS__) \
     : (f)->wide == 1 ? wide_##name(__VA_ARGS__) \
                      : plain_##name(__VA_ARGS__))
static int is_wide(void)
{
    if (__builtin_cpu_supports("avx512f"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}
#else
#define CALL(f, name, ...) plain_##name(__VA_ARGS__)
static int is_wide(void)
{
    return 0;
}
#endif

/* ---- filters ---- */

static int32_t real_inputs(const eae_adaptive *a, int32_t channels)
{
    return a->taps > 0 ? 2 * a->taps + (channels - 1) * (a->cross + 1) : 0;
}

static int32_t padded_inputs(const eae_adaptive *a, int32_t channels)
{
    return (real_inputs(a, channels) + VECTOR - 1) / VECTOR * VECTOR;
}

int eae_adaptive_fits(const eae_adaptive *a, int32_t channels)
{
    int32_t c;
    if (channels < 1 || channels > EAE_FILTER_CHANNELS || a->taps < 0 ||
        a->taps > EAE_FILTER_TAPS || a->cross < 0 || a->cross > EAE_FILTER_CROSS ||
        real_inputs(a, channels) > EAE_FILTER_INPUTS || !(a->forget >= 0.5 && a->forget <= 1.0))
        return 0;
    for (c = 0; c < channels; c++) {
        if (!(a->gain[c] >= 0.0 && a->gain[c] <= TOP))
            return 0;
    }
    return 1;
}

static size_t n_doubles(const eae_adaptive *a, int32_t channels)
{
    size_t n = (size_t)padded_inputs(a, channels), c = (size_t)channels;
    return c * (n + n * n + 2 * (size_t)a->taps + (size_t)a->cross + 1) + 2 * n;
}

size_t eae_filters_size(const eae_adaptive *a, int32_t channels)
{
    return (n_doubles(a, channels) + 1) * sizeof(double);
}

void eae_filters_init(eae_filters *f, const eae_adaptive *a, int32_t channels, void *arena)
{
    size_t n = (size_t)padded_inputs(a, channels), c = (size_t)channels;
    double *at = arena;
    f->n_inputs = (int32_t)n;
    f->wide = is_wide();
    f->input = at;
    f->product = f->input + n;
    f->weight = f->product + n;
    f->spread = f->weight + c * n;
    f->error = f->spread + c * n * n;
    f->change = f->error + c * (size_t)a->taps;
    f->other = f->change + c * (size_t)a->taps;
}

static void reset_channel(eae_filters *f, const eae_adaptive *a, int32_t channels, int32_t c)
{
    size_t n = (size_t)f->n_inputs, at = (size_t)c, i;
    double *spread = f->spread + at * n * n;
    memset(f->weight + at * n, 0, n * sizeof(double));
    memset(spread, 0, n * n * sizeof(double));
    for (i = 0; i < (size_t)real_inputs(a, channels); i++)
        spread[i * n + i] = a->gain[c];
}

void eae_filters_reset(eae_filters *f, const eae_adaptive *a, int32_t channels)
{
    int32_t c;
    memset(f->input, 0, n_doubles(a, channels) * sizeof(double));
    for (c = 0; c < channels; c++)
        reset_channel(f, a, channels, c);
}

int64_t eae_filters_predict(
    eae_filters *f, const eae_adaptive *a, int32_t channels, int32_t c, int64_t scale16)
{
    size_t taps = (size_t)a->taps, cross = (size_t)a->cross, i, at = 2 * taps;
    double *x = f->input, scale = (double)scale16, inverse = 16.0 / scale, p;
    int32_t other;
    f->guess = 0.0;
    if (taps == 0 || a->gain[c] == 0.0)
        return 0;
    for (i = 0; i < taps; i++) {
        x[i] = f->error[(size_t)c * taps + i] * inverse;
        x[taps + i] = f->change[(size_t)c * taps + i] * inverse;
    }
    for (other = 0; other < channels; other++) {
        const double *from = f->other + (size_t)other * (cross + 1);
        if (other == c)
            continue;
        for (i = 0; i <= cross; i++) /* an entry of this step is 0 as long as it is not known */
            x[at++] = from[i];
    }
    p = CALL(f, dot, f->weight + (size_t)c * (size_t)f->n_inputs, x, f->n_inputs);
    if (!(p > -1e6 && p < 1e6)) {
        reset_channel(f, a, channels, c);
        p = 0.0;
    }
    f->guess = p;
    p = p > LEAD ? LEAD : p;
    p = p < -LEAD ? -LEAD : p;
    return (int64_t)rint(p * scale);
}

void eae_filters_learn(
    eae_filters *f, const eae_adaptive *a, int32_t channels, int32_t c, int64_t scale16,
    int64_t error16, int64_t change)
{
    size_t taps = (size_t)a->taps, cross = (size_t)a->cross, n = (size_t)f->n_inputs, i;
    double y, *error = f->error + (size_t)c * taps, *moved = f->change + (size_t)c * taps;
    if (taps == 0)
        return;
    y = (double)error16 / (double)scale16;
    y = y > PEAK ? PEAK : y;
    y = y < -PEAK ? -PEAK : y;
    if (a->gain[c] != 0.0) {
        double *weight = f->weight + (size_t)c * n, *spread = f->spread + (size_t)c * n * n;
        double *v = f->product, energy, step, root, growth, top = 0.0;
        for (i = 0; i < n; i++) {
            double here = spread[i * n + i];
            top = here > top ? here : top;
        }
        growth = top < TOP ? 1.0 / a->forget : 1.0;
        CALL(f, times, v, spread, f->input, f->n_inputs);
        energy = a->forget + CALL(f, dot, f->input, v, f->n_inputs);
        if (!(energy >= 0.5 * a->forget && energy < 1e12)) {
            reset_channel(f, a, channels, c);
        } else {
            step = (y - f->guess) / energy;
            root = 1.0 / sqrt(energy);
            for (i = 0; i < n; i++) {
                weight[i] += v[i] * step;
                v[i] *= root;
            }
            CALL(f, narrow, spread, v, f->n_inputs, growth);
        }
    }
    memmove(error + 1, error, (taps - 1) * sizeof(double));
    memmove(moved + 1, moved, (taps - 1) * sizeof(double));
    error[0] = (double)error16 / 16.0;
    moved[0] = (double)change;
    f->other[(size_t)c * (cross + 1)] = y;
}

void eae_filters_advance(eae_filters *f, const eae_adaptive *a, int32_t channels)
{
    size_t cross = (size_t)a->cross;
    int32_t c;
    if (a->taps == 0)
        return;
    for (c = 0; c < channels; c++) {
        double *row = f->other + (size_t)c * (cross + 1);
        memmove(row + 1, row, cross * sizeof(double));
        row[0] = 0.0;
    }
}
