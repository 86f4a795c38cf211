#include "causal.h"

#include <string.h>

#include "shifts.h"

/* Where the compiler can, the hot loops are written for wider vectors too, and the processor is
 * asked which to take. */
#if defined(__GNUC__) && defined(__x86_64__) && !defined(EAE_NO_CLONES)
#include <immintrin.h>
#define EAE_WIDE __attribute__((target("avx2")))
#endif

#define WINDOW_STEP 16
#define SUM_LIMIT ((int64_t)1 << 24)

/* ---- arithmetic ---- */

/* v * 2^-shift, rounded half to even; shift in -4..31 */
static int64_t scale_down(int64_t v, int shift)
{
    return shift > 0 ? eae_round_shift(v, shift) : v * ((int64_t)1 << -shift);
}

/* sums[o] = weight[o] . x over n items, a multiple of WINDOW_STEP */
static void multiply(
    int32_t *sums, const int16_t *weight, const int16_t *x, int32_t n_out, int32_t n)
{
    int32_t o, i;
    n = n / WINDOW_STEP * WINDOW_STEP; /* lets the compiler see that nothing is left over */
    for (o = 0; o < n_out; o++) {
        int32_t sum = 0;
        const int16_t *w = weight + (size_t)o * (size_t)n;
        for (i = 0; i < n; i++)
            sum += (int32_t)w[i] * (int32_t)x[i];
        sums[o] = sum;
    }
}

/* y[o] = clip(scale_down(sums[o] + bias[o]), 0, peak); sums stay below 2^24 */
#define SQUASH(y, sums, bias, shift, n, peak) \
    for (int32_t o = 0; o < (n); o++) { \
        int32_t sum = (sums)[o] + (bias)[o], v = sum > 0 ? sum : 0, s = (shift)[o]; \
        int32_t right = s > 0 ? s : 0, left = s < 0 ? -s : 0; \
        int32_t half = (int32_t)(((uint32_t)1 << right) >> 1); \
        int32_t odd = (v >> right) & (half > 0); \
        v = ((v + half - (half > 0) + odd) >> right) << left; \
        (y)[o] = (int16_t)(v < (peak) ? v : (peak)); \
    }

static void squash(
    int16_t *y, const int32_t *sums, const int32_t *bias, const int32_t *shift, int32_t n,
    int32_t peak)
{
    SQUASH(y, sums, bias, shift, n, peak)
}

#ifdef EAE_WIDE
#define LANES 8 /* outputs of one vector */

static int is_wide(void)
{
    return __builtin_cpu_supports("avx2");
}

/* The same for a few vectors of outputs, the weights of two inputs side by side. */
#define MULTIPLY_VECTORS(count) \
    for (; o + (count) * LANES <= n_out; o += (count) * LANES) { \
        __m256i sum[count]; \
        const int16_t *w = weight + 2 * (size_t)o; \
        for (int k = 0; k < (count); k++) \
            sum[k] = _mm256_setzero_si256(); \
        for (i = 0; i < n; i += 2, w += 2 * (size_t)n_out) { \
            int32_t pair; \
            __m256i both; \
            memcpy(&pair, x + i, sizeof pair); \
            both = _mm256_set1_epi32(pair); \
            for (int k = 0; k < (count); k++) \
                sum[k] = _mm256_add_epi32( \
                    sum[k], \
                    _mm256_madd_epi16( \
                        both, _mm256_loadu_si256((const __m256i *)(const void *)w + k))); \
        } \
        for (int k = 0; k < (count); k++) \
            _mm256_storeu_si256((__m256i *)(void *)(sums + o) + k, sum[k]); \
    }

/* n_out is a multiple of LANES, n even. */
EAE_WIDE static void multiply_paired(
    int32_t *sums, const int16_t *weight, const int16_t *x, int32_t n_out, int32_t n)
{
    int32_t o = 0, i;
    MULTIPLY_VECTORS(4)
    MULTIPLY_VECTORS(3)
    MULTIPLY_VECTORS(2)
    MULTIPLY_VECTORS(1)
}

EAE_WIDE static void squash_wide(
    int16_t *y, const int32_t *sums, const int32_t *bias, const int32_t *shift, int32_t n,
    int32_t peak)
{
    SQUASH(y, sums, bias, shift, n, peak)
}
#else
#define LANES 1

static int is_wide(void)
{
    return 0;
}
#endif

/* ---- layout ---- */

typedef struct {
    const int32_t *word;
    size_t n_words, n_read;
    uint8_t *arena; /* NULL: only count */
    size_t used;
    int bad;
    int paired;
} layout;

static const int32_t *take(layout *l, size_t n)
{
    const int32_t *at = l->word + l->n_read;
    if (n > l->n_words - l->n_read) {
        l->bad = 1;
        return NULL;
    }
    l->n_read += n;
    return at;
}

static int32_t take_one(layout *l, int32_t lowest, int32_t highest)
{
    const int32_t *at = take(l, 1);
    if (at == NULL || *at < lowest || *at > highest) {
        l->bad = 1;
        return lowest;
    }
    return *at;
}

/* Where the weight of output o and place i in the window lies. */
static size_t place_in(int paired, const eae_layer *a, int32_t o, int32_t i)
{
    size_t n_out = (size_t)((a->n_out + LANES - 1) / LANES * LANES);
    if (paired)
        return ((size_t)(i / 2) * n_out + (size_t)o) * 2 + (size_t)(i % 2);
    return (size_t)o * (size_t)a->n_window + (size_t)i;
}

static void *allot(layout *l, size_t n)
{
    void *at = l->arena ? l->arena + l->used : NULL;
    l->used += (n + 15) / 16 * 16;
    return at;
}

static int all_within(const int32_t *v, int32_t n, int32_t lowest, int32_t highest)
{
    int32_t i;
    for (i = 0; i < n; i++)
        if (v[i] < lowest || v[i] > highest)
            return 0;
    return 1;
}

/* The weights of a layer's constant inputs, out of all its weights w [n_out][n_taps][n_in]. */
static void lay_constants(
    layout *l, eae_constants *m, const eae_layer *a, const int32_t *w, int32_t n_constant)
{
    int32_t o, k, i;
    int16_t *weight = allot(
        l, (size_t)a->n_taps * (size_t)a->n_out * (size_t)n_constant * sizeof(int16_t));
    m->bias = allot(l, (size_t)a->n_out * sizeof(int32_t));
    m->weight = weight;
    m->offsets = a->offsets;
    m->base = a->bias;
    m->n_taps = a->n_taps;
    m->n_out = a->n_out;
    if (l->arena == NULL)
        return;
    for (k = 0; k < a->n_taps; k++)
        for (o = 0; o < a->n_out; o++)
            for (i = a->n_in - n_constant; i < a->n_in; i++)
                *weight++ = (int16_t)w[(o * a->n_taps + k) * a->n_in + i];
}

/* Reads offsets, shift, bias (unless skip) and weights; n_taps to n_out are set. What reads the
 * features gets their net, and keeps the constant ones apart. */
static void lay_layer(
    layout *l, eae_layer *a, int32_t in_peak, int is_skip, const eae_net *features,
    eae_constants *m)
{
    const int32_t step = l->paired ? 2 : WINDOW_STEP;
    const int32_t n_in = a->n_in, n_taps = a->n_taps, n = n_taps * n_in;
    int32_t o, k, i, first = 0;
    const int32_t *w;
    int16_t *packed;
    size_t n_packed;
    a->offsets = take(l, (size_t)n_taps);
    a->shift = take(l, (size_t)a->n_out);
    a->bias = is_skip ? NULL : take(l, (size_t)a->n_out);
    w = take(l, (size_t)a->n_out * (size_t)n);
    if (l->bad)
        return;
    if (!all_within(a->offsets, a->n_taps, 0, EAE_MAX_OFFSET) ||
        !all_within(a->shift, a->n_out, -4, 23)) {
        l->bad = 1;
        return;
    }
    for (k = 1; k < a->n_taps; k++)
        if (a->offsets[k] <= a->offsets[k - 1])
            l->bad = 1;
    for (o = 0; o < a->n_out; o++) {
        int64_t bias = is_skip ? 0 : a->bias[o], sum = bias < 0 ? -bias : bias;
        for (i = 0; i < n; i++) {
            int64_t v = w[(size_t)o * (size_t)n + (size_t)i];
            if (v < -32768 || v > 32767)
                l->bad = 1;
            sum += (v < 0 ? -v : v) * in_peak;
        }
        if (sum >= SUM_LIMIT)
            l->bad = 1;
    }
    if (features != NULL && features->n_constant > 0) {
        lay_constants(l, m, a, w, features->n_constant);
        a->bias = m->bias;
        a->n_in -= features->n_constant;
        /* of the step at hand past features tell nothing */
        if (n_taps > 1 && a->offsets[0] == 0 && all_within(features->past, a->n_in, 1, 1)) {
            first = 1;
            a->offsets++;
            a->n_taps--;
        }
    }
    a->n_window = (a->n_taps * a->n_in + step - 1) / step * step;
    n_packed = (size_t)((a->n_out + LANES - 1) / LANES * LANES) * (size_t)a->n_window;
    packed = allot(l, n_packed * sizeof(int16_t));
    a->weight = packed;
    if (l->bad || packed == NULL)
        return;
    a->in_place = a->n_taps > 0 && a->offsets[a->n_taps - 1] - a->offsets[0] == a->n_taps - 1;
    memset(packed, 0, n_packed * sizeof(int16_t));
    for (o = 0; o < a->n_out; o++)
        for (k = 0; k < a->n_taps; k++)
            for (i = 0; i < a->n_in; i++)
                packed[place_in(l->paired, a, o, (a->n_taps - 1 - k) * a->n_in + i)] =
                    (int16_t)w[(o * n_taps + first + k) * n_in + i];
}

static int32_t deepest(const eae_layer *a)
{
    return a->n_taps > 0 ? a->offsets[a->n_taps - 1] : 0;
}

static void lay_net(layout *l, eae_net *net)
{
    int32_t i, width, peak, widest, window;
    memset(net, 0, sizeof *net);
    net->paired = l->paired;
    take_one(l, 1, 1); /* version of this layout */
    net->n_inputs = take_one(l, 1, EAE_MAX_WIDTH);
    net->feature_peak = take_one(l, 1, 32767);
    net->n_layers = take_one(l, 0, EAE_MAX_LAYERS);
    net->past = take(l, (size_t)net->n_inputs);
    if (l->bad)
        return;
    while (net->n_constant < net->n_inputs - 1 &&
           net->past[net->n_inputs - 1 - net->n_constant] == 2)
        net->n_constant++;
    if (!all_within(net->past, net->n_inputs - net->n_constant, 0, 1)) {
        l->bad = 1;
        return;
    }
    width = net->n_inputs;
    peak = net->feature_peak;
    window = 0;
    widest = 0;
    for (i = 0; i <= net->n_layers; i++) {
        eae_layer *a = &net->layer[i];
        int32_t bits;
        a->n_taps = take_one(l, 1, EAE_MAX_TAPS);
        a->n_in = take_one(l, width, width);
        a->n_out = take_one(l, 1, EAE_MAX_WIDTH);
        bits = i < net->n_layers ? take_one(l, 1, 15) : take_one(l, 0, 0);
        a->peak = ((int32_t)1 << bits) - 1;
        if (l->bad || a->n_taps * a->n_in > EAE_MAX_WINDOW) {
            l->bad = 1;
            return;
        }
        lay_layer(l, a, peak, 0, i == 0 ? net : NULL, &net->met[0]);
        width = a->n_out;
        peak = a->peak;
        if (a->n_window > window)
            window = a->n_window;
        if (a->n_out > widest)
            widest = a->n_out;
        if (l->bad)
            return;
    }
    net->n_out = width;
    net->skip.n_taps = take_one(l, 0, EAE_MAX_TAPS);
    net->skip.n_in = net->n_inputs;
    net->skip.n_out = net->n_out;
    if (l->bad || net->skip.n_taps * net->skip.n_in > EAE_MAX_WINDOW) {
        l->bad = 1;
        return;
    }
    lay_layer(l, &net->skip, net->feature_peak, 1, net, &net->met[1]);
    if (l->n_read != l->n_words)
        l->bad = 1;
    if (l->bad)
        return;
    if (net->skip.n_window > window)
        window = net->skip.n_window;
    net->window = allot(l, (size_t)window * sizeof(int16_t));
    net->sums = allot(l, (size_t)(widest + LANES) * sizeof(int32_t));
    net->skip_sums = allot(l, (size_t)(widest + LANES) * sizeof(int32_t));
    for (i = 0; i <= net->n_layers; i++) {
        eae_level *v = &net->level[i];
        size_t n;
        v->depth = deepest(&net->layer[i]);
        if (i == 0 && deepest(&net->skip) > v->depth)
            v->depth = deepest(&net->skip);
        v->channels = net->layer[i].n_in;
        v->n_rows = v->depth + (v->depth > 64 ? v->depth : 64);
        /* windows that are read in place end with up to WINDOW_STEP items that do not count */
        n = (size_t)v->n_rows * (size_t)v->channels + WINDOW_STEP;
        v->rows = allot(l, n * sizeof(int16_t));
        if (v->rows != NULL)
            memset(v->rows, 0, n * sizeof(int16_t));
    }
}

size_t eae_net_size(const int32_t *words, size_t n_words)
{
    eae_net net;
    layout l = {words, n_words, 0, NULL, 0, 0, is_wide()};
    lay_net(&l, &net);
    return l.bad ? 0 : l.used;
}

void eae_net_init(eae_net *net, const int32_t *words, size_t n_words, void *arena)
{
    layout l = {words, n_words, 0, arena, 0, 0, is_wide()};
    lay_net(&l, net);
    eae_net_reset(net);
}

/* ---- steps ---- */

static int16_t *row_of(const eae_level *v)
{
    return v->rows + (size_t)v->at * (size_t)v->channels;
}

void eae_net_reset(eae_net *net)
{
    int32_t i;
    for (i = 0; net->n_constant > 0 && i < 2; i++) {
        eae_constants *m = &net->met[i];
        if (m->base != NULL)
            memcpy(m->bias, m->base, (size_t)m->n_out * sizeof(int32_t));
        else
            memset(m->bias, 0, (size_t)m->n_out * sizeof(int32_t));
        m->n_met = 0;
    }
    net->step = 0;
    for (i = 0; i <= net->n_layers; i++) {
        eae_level *v = &net->level[i];
        v->at = v->depth;
        memset(v->rows, 0, (size_t)(v->depth + 1) * (size_t)v->channels * sizeof(int16_t));
    }
}

int16_t *eae_net_row(eae_net *net)
{
    return row_of(&net->level[0]);
}

/* What the layer reads: where it lies, or copied into the net's window by runs of steps. */
static const int16_t *gather(const eae_layer *a, const eae_level *v, int16_t *window)
{
    int32_t c = v->channels, k = a->n_taps - 1, n = a->n_taps * c;
    int16_t *to = window;
    if (a->in_place)
        return v->rows + (size_t)(v->at - a->offsets[k]) * (size_t)c;
    while (k >= 0) {
        int32_t first = k, run;
        while (k > 0 && a->offsets[k - 1] == a->offsets[k] - 1)
            k--;
        run = first - k + 1;
        memcpy(
            to, v->rows + (size_t)(v->at - a->offsets[first]) * (size_t)c,
            (size_t)(run * c) * sizeof(int16_t));
        to += run * c;
        k--;
    }
    memset(to, 0, (size_t)(a->n_window - n) * sizeof(int16_t));
    return window;
}

static void apply(const eae_net *net, const eae_layer *a, const eae_level *v, int32_t *sums)
{
    const int16_t *x = gather(a, v, net->window);
#ifdef EAE_WIDE
    if (net->paired) {
        multiply_paired(sums, a->weight, x, (a->n_out + LANES - 1) / LANES * LANES, a->n_window);
        return;
    }
#endif
    multiply(sums, a->weight, x, a->n_out, a->n_window);
}

static void apply_hidden(const eae_net *net, const eae_layer *a, const eae_level *v, int16_t *y)
{
    apply(net, a, v, net->sums);
#ifdef EAE_WIDE
    if (net->paired) {
        squash_wide(y, net->sums, a->bias, a->shift, a->n_out, a->peak);
        return;
    }
#endif
    squash(y, net->sums, a->bias, a->shift, a->n_out, a->peak);
}

/* Adds the constants of those taps whose steps are there by now. */
static void meet_constants(const eae_net *net, eae_constants *m)
{
    int32_t o, i;
    for (; m->n_met < m->n_taps && m->offsets[m->n_met] <= net->step; m->n_met++) {
        const int16_t *w =
            m->weight + (size_t)m->n_met * (size_t)m->n_out * (size_t)net->n_constant;
        for (o = 0; o < m->n_out; o++)
            for (i = 0; i < net->n_constant; i++)
                m->bias[o] += (int32_t)*w++ * net->constant[i];
    }
}

void eae_net_eval_hidden(eae_net *net)
{
    int32_t i;
    if (net->n_constant > 0 && net->step <= net->level[0].depth) {
        meet_constants(net, &net->met[0]);
        meet_constants(net, &net->met[1]);
        net->step++;
    }
    for (i = 0; i < net->n_layers; i++)
        apply_hidden(net, &net->layer[i], &net->level[i], row_of(&net->level[i + 1]));
}

int32_t eae_net_eval_output(const eae_net *net, int32_t o)
{
    const eae_layer *head = &net->layer[net->n_layers];
    const int16_t *x = gather(head, &net->level[net->n_layers], net->window);
    int32_t i, sum = head->bias[o], n = head->n_taps * head->n_in;
    for (i = 0; i < n; i++)
        sum += (int32_t)head->weight[place_in(net->paired, head, o, i)] * (int32_t)x[i];
    return (int32_t)scale_down(sum, head->shift[o]);
}

void eae_net_eval(eae_net *net, int32_t *out)
{
    eae_net_eval_hidden(net);
    eae_net_eval_head(net, out);
}

void eae_net_eval_head(eae_net *net, int32_t *out)
{
    int32_t o;
    const eae_layer *head = &net->layer[net->n_layers];
    apply(net, head, &net->level[net->n_layers], net->sums);
    if (net->skip.n_taps == 0) {
        for (o = 0; o < net->n_out; o++)
            out[o] = (int32_t)scale_down(net->sums[o] + head->bias[o], head->shift[o]);
        return;
    }
    apply(net, &net->skip, &net->level[0], net->skip_sums);
    for (o = 0; o < net->n_out; o++) {
        int hs = head->shift[o], ss = net->skip.shift[o];
        int s = hs > ss ? hs : ss;
        int32_t skip = net->skip_sums[o] + (net->skip.bias != NULL ? net->skip.bias[o] : 0);
        if (s < 0)
            s = 0;
        out[o] = (int32_t)scale_down(
            (int64_t)(net->sums[o] + head->bias[o]) * ((int64_t)1 << (s - hs)) +
                (int64_t)skip * ((int64_t)1 << (s - ss)),
            s);
    }
}

void eae_net_advance(eae_net *net)
{
    int32_t i;
    for (i = 0; i <= net->n_layers; i++) {
        eae_level *v = &net->level[i];
        v->at++;
        if (v->at == v->n_rows) {
            memcpy(
                v->rows, v->rows + (size_t)(v->n_rows - v->depth) * (size_t)v->channels,
                (size_t)v->depth * (size_t)v->channels * sizeof(int16_t));
            v->at = v->depth;
        }
    }
    memset(
        row_of(&net->level[0]), 0, (size_t)net->level[0].channels * sizeof(int16_t));
}
