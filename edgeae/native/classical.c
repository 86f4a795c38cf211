/* The classical codec of edgeae; see classical.h. */
#include "classical.h"

#include <string.h>

#include "range_coder.h"
#include "shapes.h"

#define N_MODELS 3
#define N_CONTEXTS 3
#define MAX_ORDER EAE_CLASSICAL_MAX_ORDER
#define MAX_TAPS 36
#define REFERENCE_TAPS 4
#define PLANAR 32
#define PLANAR_TAPS 6
#define LOW_LEVELS 168
#define INDEX_LIMIT ((int64_t)1 << 30)
#define MIN_WEIGHT 128

/* Polynomials of degree 0 to 3, fitted by least squares to the last 1 to 16 samples; Q15. */
static const int32_t book[16][MAX_ORDER] = {
    {32768},
    {16384, 16384},
    {8192, 8192, 8192, 8192},
    {65536, -32768},
    {43690, 10923, -21845},
    {32768, 16384, 0, -16384},
    {21845, 15292, 8738, 2185, -4369, -10923},
    {16384, 12873, 9362, 5851, 2341, -1170, -4681, -8192},
    {98304, -98304, 32768},
    {73728, -24576, -40960, 24576},
    {49152, 9830, -13107, -19661, -9830, 16384},
    {36863, 15799, 585, -8777, -12288, -9947, -1755, 12288},
    {24577, 15639, 8192, 2234, -2234, -5213, -6703, -6703, -5213, -2234, 2234, 8192},
    {131072, -196608, 131072, -32768},
    {65535, -4681, -28087, -21065, 0, 18725, 18725, -16384},
    {32769, 16384, 4681, -2971, -7202, -8642, -7922, -5671, -2521, 900, 3961, 6031, 6482, 4681, 0,
     -8192},
};
static const uint8_t book_order[16] = {1, 2, 4, 2, 3, 4, 6, 8, 3, 4, 6, 8, 12, 4, 8, 16};

/* Q15 of sin(pi / 2 * i / 64). */
static const int32_t sine[64] = {
    0,     804,   1608,  2411,  3212,  4011,  4808,  5602,  6393,  7180,  7962,  8740,  9512,
    10279, 11039, 11793, 12540, 13279, 14010, 14733, 15447, 16151, 16846, 17531, 18205, 18868,
    19520, 20160, 20788, 21403, 22006, 22595, 23170, 23732, 24279, 24812, 25330, 25833, 26320,
    26791, 27246, 27684, 28106, 28511, 28899, 29269, 29622, 29957, 30274, 30572, 30853, 31114,
    31357, 31581, 31786, 31972, 32138, 32286, 32413, 32522, 32610, 32679, 32729, 32758,
};

/* The scale index of a recent size 2^(n - 17) * (1 + m / 8), at 8 n + m: the logistic scale whose
 * rounded draws have that mean size, 2^(-4.5 + index / 8) steps. */
static const uint8_t levels[LOW_LEVELS] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
    2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 9, 10, 10, 10, 10, 10,
    11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 15, 15, 15, 16, 16, 16, 17, 17,
    18, 18, 19, 19, 20, 20, 21, 21, 22, 23, 23, 24, 25, 25, 26, 27, 28, 29, 30, 31, 31, 32, 33,
    34, 36, 37, 38, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56,
    57, 58, 59, 60, 61, 62, 63, 64,
};

/* 2^14 * 2^(4.5 - i / 8) */
static const int32_t inverse_scale[8] = {370728, 339959, 311744, 285870, 262144, 240387, 220436, 202141};

static const uint8_t rates[N_MODELS] = {1, 4, 7};
static const uint8_t filter_length[4] = {4, 8, 16, 32};
static const uint8_t filter_rate[4] = {4, 5, 6, 8};

/* x / 2^s, rounded down, for either sign, s >= 0. */
static inline int64_t down(int64_t x, int s)
{
    return x >= 0 ? x >> s : ~(~x >> s);
}

static inline int64_t clip(int64_t x, int64_t limit)
{
    return x < -limit ? -limit : x > limit ? limit : x;
}

static inline int bit_length(uint64_t x)
{
    int n = 0;
    while (x >> 16) {
        x >>= 16;
        n += 16;
    }
    while (x) {
        x >>= 1;
        n++;
    }
    return n;
}

/* ---- the adaptive tables: a mixture of three scales ---- */

typedef struct {
    int64_t size[N_MODELS]; /* recent |k| in 1/65536, at three rates */
    int32_t weights[N_CONTEXTS][N_MODELS]; /* of each context: sum 65536 */
    int32_t *weight; /* those of the symbol at hand */
    uint32_t n;
    /* of the symbol at hand */
    int64_t phi;
    int32_t mult[N_MODELS];
    uint8_t before[N_MODELS], after[N_MODELS];
    int low_bits, reach;
} mixture;

static void mixture_init(mixture *m, int start)
{
    int i;
    for (i = 0; i < N_MODELS; i++)
        m->size[i] = (int64_t)1 << (13 + start);
    for (i = 0; i < N_CONTEXTS; i++) {
        m->weights[i][0] = 21846;
        m->weights[i][1] = m->weights[i][2] = 21845;
    }
    m->n = 0;
}

static int level_of(int64_t size)
{
    int n = bit_length((uint64_t)size);
    int q = 8 * n + (int)((n > 4 ? size >> (n - 4) : size << (4 - n)) & 7);
    return q < LOW_LEVELS ? levels[q] : levels[LOW_LEVELS - 1] + q - (LOW_LEVELS - 1);
}

/* Gets ready for the next symbol, whose mean lies phi / 4096 steps past the centre. */
static void mixture_prepare(mixture *m, int64_t phi, int64_t near_size)
{
    int i, least = 1 << 20, most = 0, e;
    m->weight = m->weights[near_size < 0 ? 0 : near_size == 0 ? 1 : 2];
    for (i = 0; i < N_MODELS; i++) {
        int level = level_of(i == 0 && near_size >= 0 ? near_size : m->size[i]);
        m->mult[i] = inverse_scale[level & 7];
        /* an edge is shifted in two parts, so that the product fits 64 bits */
        m->before[i] = (uint8_t)(level >= 96 ? (level >> 3) - 12 : 0);
        m->after[i] = (uint8_t)(14 + (level >> 3) - m->before[i]);
        if (level < least)
            least = level;
        if (level > most)
            most = level;
    }
    m->phi = phi;
    m->low_bits = least >= 52 ? (least - 52) >> 3 : 0;
    e = (most >= 5 ? (most - 5) >> 3 : 0) - m->low_bits;
    e = e < 0 ? 0 : e;
    m->reach = e > 6 ? 127 : 2 + (1 << e);
}

/* The models' and the mixture's distribution function below bin j, out of 65535. */
static inline int32_t mixture_at(const mixture *m, int j, int32_t at[N_MODELS])
{
    int64_t edge = ((int64_t)j * 4096) * ((int64_t)1 << m->low_bits) - 2048 - m->phi;
    int64_t sum = 0;
    int i;
    for (i = 0; i < N_MODELS; i++) {
        int64_t z = down(down(edge, m->before[i]) * m->mult[i], m->after[i]);
        uint32_t u = (uint32_t)(clip(z, 12 * 4096 - 1) + 12 * 4096);
        const uint16_t *s = eae_shape_logistic + (u >> 8);
        at[i] = (int32_t)((s[0] * (256u - (u & 255u)) + s[1] * (u & 255u)) >> 8);
        sum += (int64_t)m->weight[i] * at[i];
    }
    return (int32_t)(sum >> 16);
}

static inline uint32_t mixture_cum(const mixture *m, int j, int32_t at[N_MODELS])
{
    uint32_t n = 2u * (uint32_t)m->reach + 3u;
    uint32_t t = (uint32_t)mixture_at(m, j, at);
    return (uint32_t)(j + m->reach + 1) + ((t * (65536u - n)) >> 16);
}

/* Learns from k, whose bin lies between the edges lo and hi. */
static void mixture_update(
    mixture *m, int64_t k, const int32_t lo[N_MODELS], const int32_t hi[N_MODELS])
{
    int64_t size = (k < 0 ? -k : k) << 16, mean = 0;
    int32_t sum = 0;
    int i, best = 0, begin;
    for (i = 0; i < N_MODELS; i++)
        mean += (int64_t)m->weight[i] * (hi[i] - lo[i] + 1);
    mean >>= 16;
    for (i = 0; i < N_MODELS; i++) {
        int64_t gain = ((int64_t)(hi[i] - lo[i] + 1) << 12) / mean - 4096;
        m->weight[i] += (int32_t)down(m->weight[i] * gain, 17);
        if (m->weight[i] < MIN_WEIGHT)
            m->weight[i] = MIN_WEIGHT;
        sum += m->weight[i];
        if (m->weight[i] > m->weight[best])
            best = i;
    }
    m->weight[best] += 65536 - sum;
    begin = bit_length((uint64_t)m->n + 2) - 1;
    if (m->n < 1024)
        m->n++;
    for (i = 0; i < N_MODELS; i++)
        m->size[i] += down(size - m->size[i], begin < rates[i] ? (begin < 1 ? 1 : begin) : rates[i]);
    if (m->size[N_MODELS - 1] < 32)
        m->size[N_MODELS - 1] = 32;
}

static void mixture_encode(mixture *m, eae_encoder *e, int64_t k)
{
    int64_t j = down(k, m->low_bits);
    int32_t lo[N_MODELS] = {0, 0, 0}, hi[N_MODELS] = {65535, 65535, 65535};
    uint32_t from = 0, to = 65536;
    if (j >= -m->reach)
        from = mixture_cum(m, (int)(j > m->reach ? m->reach + 1 : j), lo);
    if (j <= m->reach)
        to = mixture_cum(m, (int)(j < -m->reach ? -m->reach : j + 1), hi);
    eae_enc(e, from, to - from);
    if (j < -m->reach)
        eae_enc_golomb(e, (uint32_t)(-j - m->reach - 1), 3);
    else if (j > m->reach)
        eae_enc_golomb(e, (uint32_t)(j - m->reach - 1), 3);
    if (m->low_bits)
        eae_enc_bits(e, (uint32_t)(k - j * ((int64_t)1 << m->low_bits)), m->low_bits);
    mixture_update(m, k, lo, hi);
}

static int64_t mixture_decode(mixture *m, eae_decoder *d)
{
    int32_t lo[N_MODELS], hi[N_MODELS], at[N_MODELS];
    /* the symbol's lower edge is at or above a, its upper edge at or below b */
    int a = -m->reach - 1, b = m->reach + 2, step = 1, j = 0;
    uint32_t from = 0, to = 65536, cum;
    int64_t k;
    memset(lo, 0, sizeof lo);
    hi[0] = hi[1] = hi[2] = 65535;
    while (b - a > 1) {
        cum = mixture_cum(m, j, at);
        if (eae_dec_below(d, cum)) {
            b = j;
            to = cum;
            memcpy(hi, at, sizeof hi);
            j = j - step > a ? j - step : a + (b - a) / 2;
        } else {
            a = j;
            from = cum;
            memcpy(lo, at, sizeof lo);
            j = j + step < b ? j + step : a + (b - a) / 2;
        }
        if (a > -m->reach - 1 && b < m->reach + 2)
            j = a + (b - a) / 2;
        step *= 2;
    }
    eae_dec_consume(d, from, to - from);
    k = a;
    if (a < -m->reach)
        k -= (int64_t)eae_dec_golomb(d, 3);
    else if (a > m->reach)
        k += (int64_t)eae_dec_golomb(d, 3);
    k *= (int64_t)1 << m->low_bits;
    if (m->low_bits)
        k += eae_dec_bits(d, m->low_bits);
    if (k > 4 * INDEX_LIMIT || k < -4 * INDEX_LIMIT) {
        d->bad = 1;
        k = 0;
    }
    mixture_update(m, k, lo, hi);
    return k;
}

/* ---- prediction ---- */

typedef struct {
    int32_t coef[MAX_ORDER]; /* Q15 */
    int64_t past[MAX_ORDER]; /* what is predicted, latest first */
    int order, own, taps, rate;
    int32_t weight[MAX_TAPS]; /* Q16 */
    int32_t input[MAX_TAPS];  /* differences, latest first; the reference's after the own */
    int64_t energy, floor;
} predictor;

/* From reflection coefficients to the filter's, all in Q15. */
static void step_up(const int32_t *reflection, int order, int32_t *coef)
{
    int m, i;
    memset(coef, 0, MAX_ORDER * sizeof *coef);
    for (m = 0; m < order; m++) {
        int32_t q = reflection[m];
        int64_t r = q < 0 ? -sine[-q] : sine[q];
        int32_t old[MAX_ORDER];
        memcpy(old, coef, sizeof old);
        for (i = 0; i < m; i++)
            coef[i] = (int32_t)clip(
                old[i] - down(r * old[m - 1 - i] + (1 << 14), 15), (int64_t)1 << 26);
        coef[m] = (int32_t)r;
    }
}

static void predictor_init(predictor *p, const eae_classical_params *c, int32_t delta)
{
    memset(p, 0, sizeof *p);
    if (c->base < 16) {
        p->order = book_order[c->base];
        memcpy(p->coef, book[c->base], sizeof p->coef);
    } else if (c->base < PLANAR) {
        p->order = c->base - 15;
        step_up(c->reflection, p->order, p->coef);
    }
    if (c->filter) {
        p->own = c->base == PLANAR ? PLANAR_TAPS : filter_length[(c->filter - 1) >> 2];
        p->taps = p->own + (c->reference >= 0 ? REFERENCE_TAPS : 0);
        p->rate = filter_rate[(c->filter - 1) & 3];
    }
    p->floor = (((int64_t)delta * delta) >> 10) + 1;
}

static inline int64_t predict_base(const predictor *p)
{
    int64_t sum = 1 << 10;
    int i;
    for (i = 0; i < p->order; i++)
        sum += p->coef[i] * p->past[i];
    return down(sum, 11);
}

static inline int64_t predict_filter(const predictor *p)
{
    int64_t sum = 1 << 11;
    int i;
    for (i = 0; i < p->taps; i++)
        sum += (int64_t)p->weight[i] * p->input[i];
    return down(sum, 12);
}

static inline void filter_push(predictor *p, int first, int n, int64_t value)
{
    int32_t *in = p->input + first;
    int32_t old = in[n - 1], new = (int32_t)clip(value, 1 << 24);
    memmove(in + 1, in, (size_t)(n - 1) * sizeof *in);
    in[0] = new;
    p->energy += (int64_t)new *new - (int64_t)old * old;
}

static inline void filter_learn(predictor *p, int64_t error, int64_t limit)
{
    int64_t size, g;
    int i;
    error = clip(clip(error, limit), (int64_t)1 << 30);
    size = error < 0 ? -error : error;
    g = (size << 20) / (p->energy + p->floor);
    if (g > (int64_t)1 << 36)
        g = (int64_t)1 << 36;
    if (error < 0)
        g = -g;
    for (i = 0; i < p->taps; i++) {
        int64_t w = p->weight[i] +
            down(g * p->input[i] + ((int64_t)1 << (7 + p->rate)), 8 + p->rate);
        p->weight[i] = (int32_t)clip(w, 1 << 21);
    }
}

/* ---- a picture's neighbours ---- */

typedef struct {
    int64_t w, n, nw, ne, ww, nn;
} neighbours; /* what remains there */

/* A channel's samples less the part that the reference foretells. */
typedef struct {
    const int32_t *recon;
    const int32_t *reference;
    int64_t center;
    int32_t gain;
} remainder;

static inline int64_t foretold(const remainder *z, size_t t)
{
    return z->gain ? z->center + down((int64_t)z->gain * z->reference[t] + 4, 3) : z->center;
}

static inline int64_t remaining(const remainder *z, size_t t)
{
    return z->recon[t] - foretold(z, t);
}

static void look_around(
    neighbours *v, const remainder *z, size_t t, size_t width, size_t height)
{
    size_t col = t % width, row = t / width % height;
    int64_t w = col ? remaining(z, t - 1) : row ? remaining(z, t - width) : 0;
    v->w = w;
    v->n = row ? remaining(z, t - width) : w;
    v->nw = row && col ? remaining(z, t - width - 1) : v->n;
    v->ne = row && col + 1 < width ? remaining(z, t - width + 1) : v->n;
    v->ww = col > 1 ? remaining(z, t - 2) : w;
    v->nn = row > 1 ? remaining(z, t - 2 * width) : v->n;
}

static int64_t median_edge(const neighbours *v)
{
    int64_t low = v->w < v->n ? v->w : v->n, high = v->w < v->n ? v->n : v->w;
    if (v->nw >= high)
        return low;
    if (v->nw <= low)
        return high;
    return v->w + v->n - v->nw;
}

/* Mean |k| of the coded neighbours, in 1/65536; -1 at the first pixel. */
static int64_t near_sizes(const uint32_t *s, size_t t, size_t width, size_t height)
{
    size_t col = t % width, row = t / width % height;
    uint64_t sum = 0;
    int n = 0;
    if (col) {
        sum += 2 * (uint64_t)s[t - 1];
        n += 2;
    }
    if (row) {
        sum += 2 * (uint64_t)s[t - width];
        n += 2;
        if (col) {
            sum += s[t - width - 1];
            n++;
        }
        if (col + 1 < width) {
            sum += s[t - width + 1];
            n++;
        }
    }
    return n ? (int64_t)((sum << 16) / (uint64_t)n) : -1;
}

/* ---- one channel ---- */

/* A linear predictor works about the mean, which wants the grid's full precision. */
static int64_t center_of(const eae_classical_params *c, int32_t delta)
{
    return (int64_t)c->center * (c->base > 15 && c->base != PLANAR ? 1 : delta);
}

static int code_channel(
    eae_encoder *e, eae_decoder *d, const int32_t *x, const int32_t *reference, int32_t *recon,
    uint32_t *sizes, size_t steps, int32_t delta, size_t width, size_t height,
    const eae_classical_params *c)
{
    predictor p;
    mixture m;
    const remainder z = {recon, reference, center_of(c, delta), reference != NULL ? c->gain : 0};
    const int64_t half = (delta - 1) / 2;
    int64_t last = 0;
    const int64_t per_bin = ((int64_t)256 * 65536 + delta / 2) / delta;
    const int planar = c->base == PLANAR;
    size_t t;
    predictor_init(&p, c, delta);
    mixture_init(&m, c->start);
    for (t = 0; t < steps; t++) {
        int64_t base, mean, c0, frac, k, r, now, near_size = -1;
        const int64_t origin = foretold(&z, t);
        neighbours v = {0, 0, 0, 0, 0, 0};
        if (planar) {
            look_around(&v, &z, t, width, height);
            base = median_edge(&v);
            near_size = near_sizes(sizes, t, width, height);
            if (p.taps) {
                p.input[0] = (int32_t)clip(v.w - base, 1 << 24);
                p.input[1] = (int32_t)clip(v.n - base, 1 << 24);
                p.input[2] = (int32_t)clip(v.nw - base, 1 << 24);
                p.input[3] = (int32_t)clip(v.ne - base, 1 << 24);
                p.input[4] = (int32_t)clip(v.ww - base, 1 << 24);
                p.input[5] = (int32_t)clip(v.nn - base, 1 << 24);
            }
            base *= 16;
        } else {
            base = predict_base(&p);
        }
        if (p.taps > p.own)
            filter_push(
                &p, p.own, REFERENCE_TAPS, t ? (int64_t)reference[t] - reference[t - 1] : 0);
        if (planar && p.taps) {
            int i;
            p.energy = 0;
            for (i = 0; i < p.taps; i++)
                p.energy += (int64_t)p.input[i] * p.input[i];
        }
        mean = base + (p.taps ? predict_filter(&p) : 0);
        c0 = clip(origin + down(mean + 8, 4), INDEX_LIMIT);
        frac = clip(mean - 16 * (c0 - origin), 8);
        mixture_prepare(&m, down(frac * per_bin + 32768, 16), near_size);
        if (e != NULL) {
            int64_t gap = x[t] - c0;
            k = gap < 0 ? -((half - gap) / delta) : (gap + half) / delta;
            mixture_encode(&m, e, k);
        } else {
            k = mixture_decode(&m, d);
            if (d->bad)
                return 0;
        }
        r = c0 + k * delta;
        if (r > INT32_MAX || r < INT32_MIN) {
            if (d != NULL)
                d->bad = 1;
            return 0;
        }
        recon[t] = (int32_t)r;
        sizes[t] = (uint32_t)(k < 0 ? -k : k);
        now = r - origin;
        if (p.taps) {
            filter_learn(
                &p, 16 * (r - origin) - mean, down((3 * m.size[1] + 19661) * delta, 12));
            if (!planar)
                filter_push(&p, 0, p.own, t ? now - last : 0);
        }
        if (!planar) {
            memmove(p.past + 1, p.past, (size_t)(p.order - 1) * sizeof *p.past);
            p.past[0] = clip(now, (int64_t)1 << 32);
        }
        last = now;
    }
    return 1;
}

/* ---- a channel's parameters ---- */

static uint32_t zigzag(int32_t v)
{
    return v < 0 ? ((uint32_t)(-(v + 1)) << 1) + 1u : (uint32_t)v << 1;
}

static int32_t unzigzag(uint32_t v)
{
    return v & 1u ? -(int32_t)(v >> 1) - 1 : (int32_t)(v >> 1);
}

static void put_params(
    eae_encoder *e, const eae_classical_params *c, int channel, int is_image)
{
    int i;
    if (is_image)
        eae_enc_bits(e, c->base == PLANAR, 1);
    if (c->base != PLANAR)
        eae_enc_bits(e, (uint32_t)c->base, 5);
    eae_enc_bits(e, (uint32_t)c->filter, 4);
    if (channel > 0) {
        eae_enc_bits(e, c->reference >= 0, 1);
        if (c->reference >= 0 && channel > 1)
            eae_enc_golomb(e, (uint32_t)(channel - 1 - c->reference), 0);
        if (c->reference >= 0)
            eae_enc_bits(e, (uint32_t)(c->gain + 32), 6);
    }
    eae_enc_bits(e, (uint32_t)c->start, 4);
    eae_enc_golomb(e, zigzag(c->center), 6);
    for (i = 0; i < c->base - 15 && c->base != PLANAR; i++) {
        if (i < 2)
            eae_enc_bits(e, (uint32_t)(c->reflection[i] + 64), 7);
        else
            eae_enc_golomb(e, zigzag(c->reflection[i]), 3);
    }
}

static int get_params(
    eae_decoder *d, eae_classical_params *c, int channel, int is_image, int32_t delta)
{
    int i;
    memset(c, 0, sizeof *c);
    c->base = is_image && eae_dec_bits(d, 1) ? PLANAR : (int32_t)eae_dec_bits(d, 5);
    c->filter = (int32_t)eae_dec_bits(d, 4);
    c->reference = -1;
    if (channel > 0 && eae_dec_bits(d, 1)) {
        uint32_t back = channel > 1 ? eae_dec_golomb(d, 0) : 0;
        if (back >= (uint32_t)channel)
            return 0;
        c->reference = channel - 1 - (int32_t)back;
        c->gain = (int32_t)eae_dec_bits(d, 6) - 32;
    }
    c->start = (int32_t)eae_dec_bits(d, 4);
    c->center = unzigzag(eae_dec_golomb(d, 6));
    for (i = 0; i < c->base - 15 && c->base != PLANAR; i++) {
        c->reflection[i] = i < 2 ? (int32_t)eae_dec_bits(d, 7) - 64 : unzigzag(eae_dec_golomb(d, 3));
        if (c->reflection[i] < -63 || c->reflection[i] > 63)
            return 0;
    }
    return !d->bad && center_of(c, delta) <= INDEX_LIMIT + delta &&
        center_of(c, delta) >= -INDEX_LIMIT - delta;
}

/* ---- the three entries ---- */

size_t eae_classical_encode(
    const int32_t *x, int32_t *recon, uint32_t *sizes, size_t steps, int channels,
    const int32_t *delta, size_t width, size_t height, const eae_classical_params *params,
    uint8_t *out, size_t cap)
{
    eae_encoder e;
    int c;
    eae_enc_init(&e, out, cap);
    for (c = 0; c < channels; c++) {
        const eae_classical_params *p = params + c;
        put_params(&e, p, c, width > 0);
        if (!code_channel(
                &e, NULL, x + (size_t)c * steps,
                p->reference >= 0 ? recon + (size_t)p->reference * steps : NULL,
                recon + (size_t)c * steps, sizes, steps, delta[c], width, height, p))
            return EAE_OVERFLOW;
    }
    return eae_enc_finish(&e);
}

size_t eae_classical_try(
    const int32_t *x, const int32_t *reference, int32_t *recon, uint32_t *sizes, size_t steps,
    int32_t delta, size_t width, size_t height, const eae_classical_params *params, uint8_t *out,
    size_t cap)
{
    eae_encoder e;
    eae_enc_init(&e, out, cap);
    put_params(&e, params, reference != NULL, width > 0);
    if (!code_channel(
            &e, NULL, x, reference, recon, sizes, steps, delta, width, height, params))
        return EAE_OVERFLOW;
    return eae_enc_finish(&e);
}

int eae_classical_decode(
    const uint8_t *payload, size_t len, int32_t *recon, uint32_t *sizes, size_t steps,
    int channels, const int32_t *delta, size_t width, size_t height)
{
    eae_decoder d;
    int c;
    eae_dec_init(&d, payload, len);
    for (c = 0; c < channels; c++) {
        eae_classical_params p;
        if (!get_params(&d, &p, c, width > 0, delta[c]) ||
            !code_channel(
                NULL, &d, NULL, p.reference >= 0 ? recon + (size_t)p.reference * steps : NULL,
                recon + (size_t)c * steps, sizes, steps, delta[c], width, height, &p))
            return 0;
    }
    return eae_dec_finish(&d);
}
