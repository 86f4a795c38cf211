/* The classical codec of edgeae; see classical.h. */
#include "classical.h"

#include <string.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#include "range_coder.h"
#include "shapes.h"
#include "tally.h"

/* Where the compiler can, each loop is compiled twice, and the processor is asked which to take. */
#if defined(__GNUC__) && defined(__x86_64__) && !defined(EAE_NO_CLONES)
#define EAE_WIDE __attribute__((target("avx2,bmi,bmi2,lzcnt")))
#endif

/* For the loops that are written once and compiled for each of their uses. */
#if defined(__GNUC__)
#define EAE_INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define EAE_INLINE static __forceinline
#else
#define EAE_INLINE static inline
#endif

#define N_MODELS 3
#define N_CONTEXTS 3
#define MAX_ORDER EAE_CLASSICAL_MAX_ORDER
#define MAX_OWN 32
#define REFERENCE_TAPS 4
#define PLANAR 32
#define PLANAR_TAPS 6
#define LOW_LEVELS 168
#define INDEX_LIMIT ((int64_t)1 << 30)
#define MIN_WEIGHT 128
#define USUAL_SHIFT 6 /* the slowest size takes no residual for larger than 2^6 times itself, */
#define USUAL_STEPS (8 << 16) /* and some steps */

/* Polynomials of degree 0 to 5, fitted by least squares to the last 1 to 12 samples; Q15. */
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
    {163840, -327680, 327680, -163840, 32768},
    {196608, -491520, 655360, -491520, 196608, -32768},
};
static const uint8_t book_order[16] = {1, 2, 4, 2, 3, 4, 6, 8, 3, 4, 6, 8, 12, 4, 5, 6};

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

/* x / 2^s, rounded down: the shift of a negative number does that on every compiler we know. */
typedef char shifts_round_down[(-1 >> 1) == -1 ? 1 : -1];

EAE_INLINE int64_t down(int64_t x, int s)
{
    return x >> s;
}

EAE_INLINE int64_t clip(int64_t x, int64_t limit)
{
    return x < -limit ? -limit : x > limit ? limit : x;
}

EAE_INLINE int64_t size_of(int64_t v)
{
    return v < 0 ? -v : v;
}

EAE_INLINE int bit_length(uint64_t x)
{
#if defined(__GNUC__)
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
#elif defined(_MSC_VER) && defined(_M_X64)
    unsigned long place;
    return _BitScanReverse64(&place, x) ? (int)place + 1 : 0;
#else
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
#endif
}

/* ---- the adaptive tables: a mixture of three scales ---- */

typedef struct {
    int64_t size[N_MODELS];   /* recent |k| in 1/65536, at three rates */
    int32_t weight[N_MODELS]; /* sum 65536 */
    uint32_t n;
    /* of the symbol at hand */
    int64_t phi;
    int32_t mult[N_MODELS];
    int shift[N_MODELS];
    int most, low_bits, reach;
} mixture;

/* A picture's weights: which set serves depends on the neighbours. */
typedef int32_t weight_sets[N_CONTEXTS][N_MODELS];

static void mixture_init(mixture *m, int start)
{
    int i;
    memset(m, 0, sizeof *m);
    for (i = 0; i < N_MODELS; i++) {
        m->size[i] = (int64_t)1 << (13 + start);
        m->weight[i] = i == 0 ? 21846 : 21845;
    }
}

EAE_INLINE int level_of(int64_t size)
{
    int n = bit_length((uint64_t)size);
    int q = 8 * n + (int)((size << 4 >> n) & 7);
    return q < LOW_LEVELS ? levels[q] : levels[LOW_LEVELS - 1] + q - (LOW_LEVELS - 1);
}

/* Gets ready for the next symbol, whose mean lies phi / 4096 steps past the centre. */
EAE_INLINE void mixture_prepare(mixture *m, int64_t phi, int64_t near_size)
{
    int i, least = 1 << 20, most = 0, e;
    for (i = 0; i < N_MODELS; i++) {
        int level = level_of(i == 0 && near_size >= 0 ? near_size : m->size[i]);
        m->mult[i] = inverse_scale[level & 7];
        m->shift[i] = 14 + (level >> 3);
        least = level < least ? level : least;
        most = level > most ? level : most;
    }
    m->phi = phi;
    m->most = most;
    least -= 52;
    most -= 5;
    m->low_bits = (least < 0 ? 0 : least) >> 3;
    e = ((most < 0 ? 0 : most) >> 3) - m->low_bits;
    e = e < 0 ? 0 : e;
    m->reach = e > 6 ? 127 : 2 + (1 << e);
}

/* The models' and the mixture's distribution function below bin j, out of 65535. */
EAE_INLINE uint32_t mixture_at(const mixture *m, int64_t edge, int32_t at[N_MODELS], int is_wide)
{
    uint32_t sum = 0;
    int i;
    for (i = 0; i < N_MODELS; i++) {
        int64_t z;
        const uint16_t *s;
        uint32_t u;
        if (is_wide && m->shift[i] > 26) /* in two parts, so that the product fits 64 bits */
            z = down(down(edge, m->shift[i] - 26) * m->mult[i], 26);
        else
            z = down(edge * m->mult[i], m->shift[i]);
        u = (uint32_t)clip(z, 12 * 4096 - 1) + 12 * 4096;
        s = eae_shape_logistic + (u >> 8);
        at[i] = (int32_t)((256u * s[0] + (uint32_t)(s[1] - s[0]) * (u & 255u)) >> 8);
        sum += (uint32_t)m->weight[i] * (uint32_t)at[i];
    }
    return sum >> 16;
}

EAE_INLINE uint32_t mixture_cum(const mixture *m, int j, int32_t at[N_MODELS])
{
    uint32_t n = 2u * (uint32_t)m->reach + 3u, t;
    int64_t edge = (int64_t)j * ((int64_t)4096 << m->low_bits) - 2048 - m->phi;
    if (m->most < 104)
        t = mixture_at(m, edge, at, 0);
    else
        t = mixture_at(m, edge, at, 1);
    return (uint32_t)(j + m->reach + 1) + ((t * (65536u - n)) >> 16);
}

/* Learns from k, whose bin lies between the edges lo and hi. */
EAE_INLINE void mixture_update(
    mixture *m, int64_t k, const int32_t lo[N_MODELS], const int32_t hi[N_MODELS])
{
    int64_t size = (k < 0 ? -k : k) << 16;
    uint32_t mean = 0, share[N_MODELS];
    int32_t w[N_MODELS], rest;
    int i, begin;
    for (i = 0; i < N_MODELS; i++) {
        share[i] = (uint32_t)(hi[i] - lo[i] + 1);
        mean += (uint32_t)m->weight[i] * share[i]; /* 2^32 only if every share is 65536 */
    }
    mean = mean == 0 ? 65536 : mean >> 16;
    for (i = 0; i < N_MODELS; i++) {
        int64_t gain = (int64_t)((share[i] << 12) / mean) - 4096;
        w[i] = m->weight[i] + (int32_t)down(m->weight[i] * gain, 17);
        w[i] = w[i] < MIN_WEIGHT ? MIN_WEIGHT : w[i];
    }
    rest = 65536 - (w[0] + w[1] + w[2]);
    if (w[0] >= w[1] && w[0] >= w[2])
        w[0] += rest;
    else if (w[1] >= w[2])
        w[1] += rest;
    else
        w[2] += rest;
    begin = bit_length((uint64_t)m->n + 2) - 1;
    m->n += m->n < 1024;
    for (i = 0; i < N_MODELS; i++) {
        const int64_t most = m->size[i] * (1 << USUAL_SHIFT) + USUAL_STEPS;
        if (i == N_MODELS - 1 && begin > 3 && size > most)
            size = most;
        m->weight[i] = w[i];
        m->size[i] += down(size - m->size[i], begin < rates[i] ? begin : rates[i]);
    }
    if (m->size[N_MODELS - 1] < 32)
        m->size[N_MODELS - 1] = 32;
}

EAE_INLINE void mixture_encode(mixture *m, eae_encoder *e, int64_t k)
{
    int64_t j = down(k, m->low_bits);
    int32_t lo[N_MODELS] = {0, 0, 0}, hi[N_MODELS] = {65535, 65535, 65535};
    uint32_t from = 0, to = 65536;
    if (j >= -m->reach && j <= m->reach) {
        from = mixture_cum(m, (int)j, lo);
        to = mixture_cum(m, (int)j + 1, hi);
        eae_enc(e, from, to - from);
    } else if (j < 0) {
        to = mixture_cum(m, -m->reach, hi);
        eae_enc(e, from, to - from);
        eae_enc_golomb(e, (uint32_t)(-j - m->reach - 1), 3);
    } else {
        from = mixture_cum(m, m->reach + 1, lo);
        eae_enc(e, from, to - from);
        eae_enc_golomb(e, (uint32_t)(j - m->reach - 1), 3);
    }
    if (m->low_bits)
        eae_enc_bits(e, (uint32_t)(k - j * ((int64_t)1 << m->low_bits)), m->low_bits);
    mixture_update(m, k, lo, hi);
}

EAE_INLINE int64_t mixture_decode(mixture *m, eae_decoder *d)
{
    int32_t lo[N_MODELS] = {0, 0, 0}, hi[N_MODELS] = {65535, 65535, 65535}, at[N_MODELS];
    /* the symbol's lower edge is at or above a, its upper edge at or below b */
    int a = -m->reach - 1, b = m->reach + 2, step = 1, j = 0;
    uint32_t from = 0, to = 65536, cum;
    int64_t k;
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

/* Histories grow forwards in a window; when it is full, its last items move to the front. */
#define WINDOW 32

typedef struct {
    int32_t coef[MAX_ORDER];            /* Q15, that of the oldest first */
    int64_t past[MAX_ORDER + WINDOW];   /* what is predicted */
    int order, own, far, rate;
    int past_at, input_at;              /* where the next item goes */
    int32_t weight[MAX_OWN];            /* Q16, that of the oldest input first */
    int32_t input[MAX_OWN + WINDOW];    /* differences; not yet the newest, which is 0 here */
    int32_t newest;
    int32_t far_weight[REFERENCE_TAPS]; /* for the reference's differences, latest first */
    int32_t far_input[REFERENCE_TAPS];
    int64_t energy, floor;              /* of all inputs */
    int64_t magnitude;                  /* their sum of sizes */
    int64_t weight_limit;               /* no weight's size is above */
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
    int32_t coef[MAX_ORDER];
    int i;
    memset(p, 0, sizeof *p);
    if (c->base < 16) {
        p->order = book_order[c->base];
        memcpy(coef, book[c->base], sizeof coef);
    } else if (c->base < PLANAR) {
        p->order = c->base - 15;
        step_up(c->reflection, p->order, coef);
    }
    for (i = 0; i < p->order; i++)
        p->coef[i] = coef[p->order - 1 - i];
    if (c->filter) {
        p->own = c->base == PLANAR ? PLANAR_TAPS : filter_length[(c->filter - 1) >> 2];
        p->far = c->reference >= 0 ? REFERENCE_TAPS : 0;
        p->rate = filter_rate[(c->filter - 1) & 3];
    }
    p->past_at = MAX_ORDER;
    p->input_at = MAX_OWN - 1;
    p->floor = (((int64_t)delta * delta) >> 10) + 1;
}

EAE_INLINE int64_t predict_base(const predictor *p)
{
    int64_t sum = 1 << 10;
    const int64_t *past = p->past + p->past_at - p->order;
    int i;
    for (i = 0; i < p->order; i++)
        sum += p->coef[i] * past[i];
    return down(sum, 11);
}

EAE_INLINE void base_push(predictor *p, int64_t value)
{
    if (p->past_at == MAX_ORDER + WINDOW) {
        memcpy(p->past, p->past + WINDOW, MAX_ORDER * sizeof *p->past);
        p->past_at = MAX_ORDER;
    }
    p->past[p->past_at++] = clip(value, (int64_t)1 << 32);
}

#define SMALL (((int64_t)1 << 31) - 1)

EAE_INLINE int32_t dot32(const int32_t *a, const int32_t *b, int n)
{
    int32_t sum = 0;
    int i;
    for (i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

EAE_INLINE int64_t dot64(const int32_t *a, const int32_t *b, int n)
{
    int64_t sum = 0;
    int i;
    for (i = 0; i < n; i++)
        sum += (int64_t)a[i] * b[i];
    return sum;
}

/* w += g v in units of 2^shift, where it all fits 32 bits; returns a limit of the new sizes. */
EAE_INLINE int32_t learn32(int32_t *w, const int32_t *v, int n, int32_t g, int shift)
{
    const int32_t half = (int32_t)1 << (shift - 1), limit = 1 << 21;
    int32_t seen = 0;
    int i;
    for (i = 0; i < n; i++) {
        int32_t x = w[i] + ((g * v[i] + half) >> shift);
        x = x < -limit ? -limit : x;
        x = x > limit ? limit : x;
        w[i] = x;
        seen |= x < 0 ? -x : x;
    }
    return seen;
}

EAE_INLINE int32_t learn64(int32_t *w, const int32_t *v, int n, int64_t g, int shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    int32_t seen = 0;
    int i;
    for (i = 0; i < n; i++) {
        int32_t x = (int32_t)clip(w[i] + down(g * v[i] + half, shift), 1 << 21);
        w[i] = x;
        seen |= x < 0 ? -x : x;
    }
    return seen;
}

/* The lengths are small, 4 or 6, or whole vectors: the compiler must not know more than that, or it
 * unrolls the loops before it thinks of vectors. */
#define WITH_LENGTH(n, call) \
    if (n < 8) { \
        call(n); \
    } else { \
        call(n / 8 * 8); \
    }

EAE_INLINE const int32_t *own_inputs(const predictor *p)
{
    return p->input + p->input_at - (p->own - 1);
}

EAE_INLINE int64_t predict_filter(predictor *p)
{
    const int own = p->own;
    const int32_t *v = own_inputs(p);
    int64_t sum = (1 << 11) + (int64_t)p->weight[p->own - 1] * p->newest;
    int i;
    if (p->weight_limit * p->magnitude < SMALL) {
        int32_t part = 0;
#define DOT(n) part = dot32(p->weight, v, n)
        WITH_LENGTH(own, DOT)
#undef DOT
        sum += part;
    } else {
        int64_t part = 0;
#define DOT(n) part = dot64(p->weight, v, n)
        WITH_LENGTH(own, DOT)
#undef DOT
        sum += part;
    }
    for (i = 0; i < p->far; i++)
        sum += (int64_t)p->far_weight[i] * p->far_input[i];
    p->input[p->input_at] = p->newest;
    return down(sum, 12);
}

EAE_INLINE void filter_learn(predictor *p, int64_t error, int64_t limit)
{
    const int32_t *v = own_inputs(p);
    const int own = p->own, shift = 8 + p->rate;
    int64_t size, g;
    int32_t seen = 0, far_seen = 0;
    error = clip(clip(error, limit), (int64_t)1 << 30);
    size = error < 0 ? -error : error;
    g = (size << 20) / (p->energy + p->floor);
    if (g > (int64_t)1 << 36)
        g = (int64_t)1 << 36;
    if (g < ((int64_t)1 << 31) && g * (p->magnitude + 1) < SMALL - (1 << 16)) {
        int32_t small = (int32_t)(error < 0 ? -g : g);
#define LEARN(n) seen = learn32(p->weight, v, n, small, shift)
        WITH_LENGTH(own, LEARN)
#undef LEARN
        if (p->far)
            far_seen = learn32(p->far_weight, p->far_input, REFERENCE_TAPS, small, shift);
    } else {
        g = error < 0 ? -g : g;
#define LEARN(n) seen = learn64(p->weight, v, n, g, shift)
        WITH_LENGTH(own, LEARN)
#undef LEARN
        if (p->far)
            far_seen = learn64(p->far_weight, p->far_input, REFERENCE_TAPS, g, shift);
    }
    p->weight_limit = 1 + (int64_t)(seen | far_seen);
}

EAE_INLINE void take_in(predictor *p, int64_t new, int64_t old)
{
    p->energy += new *new - old * old;
    p->magnitude += size_of(new) - size_of(old);
}

EAE_INLINE void filter_push(predictor *p, int64_t value)
{
    int64_t old = own_inputs(p)[0];
    p->newest = (int32_t)clip(value, 1 << 24);
    take_in(p, p->newest, old);
    if (++p->input_at == MAX_OWN + WINDOW) {
        memcpy(p->input, p->input + WINDOW, MAX_OWN * sizeof *p->input);
        memset(p->input + MAX_OWN, 0, WINDOW * sizeof *p->input);
        p->input_at = MAX_OWN;
    }
}

EAE_INLINE void far_push(predictor *p, int64_t value)
{
    int32_t new = (int32_t)clip(value, 1 << 24);
    int i;
    take_in(p, new, p->far_input[REFERENCE_TAPS - 1]);
    for (i = REFERENCE_TAPS - 1; i > 0; i--)
        p->far_input[i] = p->far_input[i - 1];
    p->far_input[0] = new;
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

EAE_INLINE int64_t foretold(const remainder *z, size_t t)
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

/* The planar filter's inputs: the neighbours less the prediction, the west last. */
static void planar_inputs(predictor *p, const neighbours *v, int64_t base)
{
    const int64_t around[PLANAR_TAPS] = {v->nn, v->ww, v->ne, v->nw, v->n, v->w};
    int32_t *in = p->input + p->input_at - (PLANAR_TAPS - 1);
    int i;
    p->energy = 0;
    p->magnitude = 0;
    for (i = 0; i < PLANAR_TAPS; i++) {
        p->newest = (int32_t)clip(around[i] - base, 1 << 24);
        in[i] = i < PLANAR_TAPS - 1 ? p->newest : 0;
        take_in(p, p->newest, 0);
    }
    for (i = 0; i < p->far; i++)
        take_in(p, p->far_input[i], 0);
}

/* ---- one channel ---- */

/* A linear predictor works about the mean, which wants the grid's full precision. */
static int64_t center_of(const eae_classical_params *c, int32_t delta)
{
    return (int64_t)c->center * ((c->base > 15 && c->base != PLANAR) || c->pitch ? 1 : delta);
}

typedef struct {
    const int32_t *x; /* to encode, or NULL */
    const int32_t *reference;
    int32_t *recon;
    uint32_t *sizes;
    size_t steps;
    int32_t delta;
    size_t width, height;
} channel;

/* The one loop; encode, planar and filtered are known where it is compiled. */
EAE_INLINE int code_samples(
    const channel *s, eae_encoder *e, eae_decoder *d, const eae_classical_params *c,
    const int encode, const int planar, const int filtered)
{
    predictor p;
    mixture m;
    weight_sets sets;
    eae_encoder out;
    eae_decoder in;
    const remainder z = {
        s->recon, s->reference, center_of(c, s->delta), s->reference != NULL ? c->gain : 0};
    const int32_t *reference = s->reference;
    const int64_t delta = s->delta, half = (delta - 1) / 2;
    const int64_t per_bin = ((int64_t)256 * 65536 + delta / 2) / delta;
    const size_t steps = s->steps;
    int64_t last = 0;
    size_t t;
    predictor_init(&p, c, s->delta);
    mixture_init(&m, c->start);
    if (encode)
        out = *e;
    else
        in = *d;
    for (t = 0; t < N_CONTEXTS; t++)
        memcpy(sets[t], m.weight, sizeof m.weight);
    for (t = 0; t < steps; t++) {
        int64_t base, mean, c0, frac, k, r, now, near_size = -1;
        int32_t *set = NULL;
        const int64_t origin = foretold(&z, t);
        if (filtered && p.far)
            far_push(&p, t ? (int64_t)reference[t] - reference[t - 1] : 0);
        if (planar) {
            neighbours v;
            look_around(&v, &z, t, s->width, s->height);
            base = median_edge(&v);
            near_size = near_sizes(s->sizes, t, s->width, s->height);
            set = sets[near_size < 0 ? 0 : near_size == 0 ? 1 : 2];
            memcpy(m.weight, set, sizeof m.weight);
            if (filtered)
                planar_inputs(&p, &v, base);
            base *= 16;
        } else {
            base = predict_base(&p);
        }
        mean = base + (filtered ? predict_filter(&p) : 0);
        c0 = clip(origin + down(mean + 8, 4), INDEX_LIMIT);
        frac = clip(mean - 16 * (c0 - origin), 8);
        mixture_prepare(&m, down(frac * per_bin + 32768, 16), near_size);
        if (encode) {
            int64_t gap = s->x[t] - c0;
            uint32_t size = (uint32_t)(size_of(gap) + half);
            k = delta > 1 ? size / (uint32_t)delta : size;
            k = gap < 0 ? -k : k;
            mixture_encode(&m, &out, k);
            if (out.pos > out.cap)
                return 0;
        } else {
            k = mixture_decode(&m, &in);
            if (in.bad)
                return 0;
        }
        if (planar)
            memcpy(set, m.weight, sizeof m.weight);
        r = c0 + k * delta;
        if (r > INT32_MAX || r < INT32_MIN)
            return 0;
        s->recon[t] = (int32_t)r;
        if (planar)
            s->sizes[t] = (uint32_t)(k < 0 ? -k : k);
        now = r - origin;
        if (filtered) {
            filter_learn(&p, 16 * now - mean, down((3 * m.size[1] + 19661) * delta, 12));
            if (!planar)
                filter_push(&p, t ? now - last : 0);
        }
        if (!planar)
            base_push(&p, now);
        last = now;
    }
    if (encode)
        *e = out;
    else
        *d = in;
    return 1;
}

/* ---- a channel with tools of its own: a lattice, a tally, a lag ---- */

typedef struct {
    int64_t pitch; /* in 1/65536 */
    int64_t phase; /* likewise, 0 where it is the sample before */
    int64_t most;  /* no lattice point's number is above */
    int32_t step;
} lattice;

EAE_INLINE int64_t lattice_point(const lattice *g, int64_t n)
{
    return down(n * g->pitch + g->phase + (1 << 15), 16);
}

/* the number of the point next to x, |x| < 2^33 */
EAE_INLINE int64_t lattice_number(const lattice *g, int64_t x)
{
    int64_t v = x * 65536 - g->phase + g->pitch / 2;
    int64_t n = v / g->pitch;
    return n * g->pitch > v ? n - 1 : n;
}

static int64_t take_k(
    eae_encoder *e, eae_decoder *d, mixture *m, tally *y, const eae_classical_params *c,
    int64_t phi, int64_t k)
{
    const int shift = c->tally - 1;
    int64_t symbol;
    if (c->tally == 0) {
        mixture_prepare(m, phi, -1);
        if (e != NULL)
            mixture_encode(m, e, k);
        else
            k = mixture_decode(m, d);
        return k;
    }
    if (e != NULL) {
        symbol = down(k, shift);
        if (!tally_encode(y, e, symbol)) {
            mixture_prepare(m, 0, -1);
            mixture_encode(m, e, symbol);
        }
        eae_enc_bits(e, (uint32_t)(k - symbol * ((int64_t)1 << shift)), shift);
        return k;
    }
    if (!tally_decode(y, d, &symbol)) {
        mixture_prepare(m, 0, -1);
        symbol = mixture_decode(m, d);
        tally_learn(y, -1, symbol);
    }
    if (size_of(symbol) > down(4 * INDEX_LIMIT, shift)) {
        d->bad = 1;
        return 0;
    }
    return symbol * ((int64_t)1 << shift) + eae_dec_bits(d, shift);
}

static uint32_t zigzag(int32_t v);
static int32_t unzigzag(uint32_t v);

static int code_special(
    const channel *s, eae_encoder *e, eae_decoder *d, const eae_classical_params *c)
{
    predictor p;
    mixture m;
    tally values, rests;
    lattice g = {0, 0, 0, 0};
    const int64_t delta = s->delta, half = (delta - 1) / 2, center = center_of(c, s->delta);
    const int32_t *reference = s->reference;
    const size_t lag = (size_t)c->lag, steps = s->steps;
    int64_t last = 0, per_bin, origin, from = c->phase < 0 ? center : 0;
    size_t t;
    g.step = s->delta;
    if (c->pitch) {
        g.pitch = (int64_t)c->pitch << (16 - c->pitch_bits);
        g.phase = c->phase < 0 ? 0 : (int64_t)c->phase << (16 - c->pitch_bits);
        g.most = ((int64_t)1 << 49) / g.pitch;
        g.step = (int32_t)((g.pitch + (1 << 15)) >> 16);
    }
    per_bin = ((int64_t)256 * 65536 + g.step / 2) / g.step;
    predictor_init(&p, c, g.step);
    mixture_init(&m, c->tally ? 2 * c->start : c->start);
    tally_init(&values);
    tally_init(&rests);
    if (lag && c->filter)
        p.far = REFERENCE_TAPS;
    for (t = 0; t < steps; t++) {
        int64_t mean, c0, frac, k = 0, r, now, first = 0, rest = 0;
        origin = center;
        if (lag) {
            if (t >= lag)
                origin += down(c->gain * (s->recon[t - lag] - center) + 4, 3);
            if (p.far)
                far_push(&p, t > lag ? (int64_t)s->recon[t - lag] - s->recon[t - lag - 1] : 0);
        } else {
            if (reference != NULL)
                origin += down((int64_t)c->gain * reference[t] + 4, 3);
            if (p.far)
                far_push(&p, t ? (int64_t)reference[t] - reference[t - 1] : 0);
        }
        mean = predict_base(&p) + (c->filter ? predict_filter(&p) : 0);
        c0 = clip(origin + down(mean + 8, 4), INDEX_LIMIT);
        if (g.pitch) {
            if (t && c->phase < 0)
                from = s->recon[t - 1];
            first = lattice_number(&g, c0 - from);
            c0 = from + lattice_point(&g, first);
        }
        frac = clip(mean - 16 * (c0 - origin), 8 * (int64_t)g.step);
        if (e != NULL) {
            int64_t gap = s->x[t] - c0;
            if (g.pitch) {
                k = lattice_number(&g, s->x[t] - from) - first;
                gap = s->x[t] - from - lattice_point(&g, first + k);
                rest = (size_of(gap) + half) / delta;
                rest = gap < 0 ? -rest : rest;
            } else {
                k = (size_of(gap) + half) / delta;
                k = gap < 0 ? -k : k;
            }
        }
        k = take_k(e, d, &m, &values, c, down(frac * per_bin + 32768, 16), k);
        if (g.pitch) {
            if (e != NULL) {
                if (!tally_encode(&rests, e, rest))
                    eae_enc_golomb(e, zigzag((int32_t)rest), 2);
            } else if (!tally_decode(&rests, d, &rest)) {
                rest = unzigzag(eae_dec_golomb(d, 2));
                tally_learn(&rests, -1, rest);
            }
        }
        if (e != NULL ? e->pos > e->cap : d->bad)
            return 0;
        if (g.pitch) {
            if (size_of(first + k) > g.most)
                return 0;
            r = from + lattice_point(&g, first + k) + rest * delta;
        } else {
            r = c0 + k * delta;
        }
        if (r > INT32_MAX || r < INT32_MIN)
            return 0;
        s->recon[t] = (int32_t)r;
        now = r - origin;
        if (c->filter) {
            filter_learn(&p, 16 * now - mean, down((3 * m.size[1] + 19661) * g.step, 12));
            filter_push(&p, t ? now - last : 0);
        }
        base_push(&p, now);
        last = now;
    }
    return 1;
}

typedef int (*loop)(
    const channel *s, eae_encoder *e, eae_decoder *d, const eae_classical_params *c);

#define LOOP(name, target, encode, planar, filtered) \
    target static int name( \
        const channel *s, eae_encoder *e, eae_decoder *d, const eae_classical_params *c) \
    { \
        return code_samples(s, e, d, c, encode, planar, filtered); \
    }

LOOP(encode_plain, , 1, 0, 0)
LOOP(encode_filtered, , 1, 0, 1)
LOOP(encode_planar, , 1, 1, c->filter != 0)
LOOP(decode_plain, , 0, 0, 0)
LOOP(decode_filtered, , 0, 0, 1)
LOOP(decode_planar, , 0, 1, c->filter != 0)
#ifdef EAE_WIDE
LOOP(encode_plain_wide, EAE_WIDE, 1, 0, 0)
LOOP(decode_plain_wide, EAE_WIDE, 0, 0, 0)
LOOP(encode_filtered_wide, EAE_WIDE, 1, 0, 1)
LOOP(decode_filtered_wide, EAE_WIDE, 0, 0, 1)
#endif

#ifdef EAE_WIDE
static int is_wide(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("bmi2");
}
#endif

static loop pick_loop(int encode, const eae_classical_params *c)
{
    if (c->base == PLANAR)
        return encode ? encode_planar : decode_planar;
    if (c->pitch || c->tally || c->lag)
        return code_special;
#ifdef EAE_WIDE
    if (is_wide()) {
        if (c->filter == 0)
            return encode ? encode_plain_wide : decode_plain_wide;
        return encode ? encode_filtered_wide : decode_filtered_wide;
    }
#endif
    if (c->filter == 0)
        return encode ? encode_plain : decode_plain;
    return encode ? encode_filtered : decode_filtered;
}

static int code_channel(
    eae_encoder *e, eae_decoder *d, const int32_t *x, const int32_t *reference, int32_t *recon,
    uint32_t *sizes, size_t steps, int32_t delta, size_t width, size_t height,
    const eae_classical_params *c)
{
    const channel s = {x, reference, recon, sizes, steps, delta, width, height};
    return pick_loop(e != NULL, c)(&s, e, d, c);
}

/* ---- what a choice of parameters would cost ---- */

/* In 1/16 bit, eight residuals whose sizes sum to 0..63: the entropy of two-sided geometric numbers
 * of that mean size. */
static const uint16_t block_cost[64] = {
    0, 87, 141, 184, 219, 249, 276, 299, 320, 339, 357, 373, 388, 401, 414, 426, 438, 449, 459,
    469, 478, 487, 495, 504, 511, 519, 526, 533, 540, 546, 552, 559, 564, 570, 576, 581, 586, 591,
    596, 601, 606, 610, 615, 619, 624, 628, 632, 636, 640, 644, 647, 651, 655, 658, 662, 665, 669,
    672, 675, 678, 681, 685, 688, 691,
};

/* 128 * log2(1 + i / 64) */
static const uint8_t log_cost[64] = {
    0, 3, 6, 8, 11, 14, 17, 19, 22, 24, 27, 29, 32, 34, 37, 39, 41, 44, 46, 48, 50, 52, 55, 57,
    59, 61, 63, 65, 67, 69, 71, 73, 75, 77, 79, 81, 82, 84, 86, 88, 90, 91, 93, 95, 97, 98, 100,
    102, 103, 105, 107, 108, 110, 111, 113, 115, 116, 118, 119, 121, 122, 124, 125, 127,
};

EAE_INLINE int64_t cost_of(uint64_t sum)
{
    int n;
    if (sum < 64)
        return block_cost[sum];
    n = bit_length(sum) - 1;
    return 128 * (int64_t)n + log_cost[(sum << 6 >> n) & 63] - 72;
}

/* One of the choices that are tried at the same time. */
typedef struct {
    predictor p;
    int64_t center, last, size, cost;
    int64_t behind; /* once it gave up: by how much it would lose */
    uint64_t sum;
    int32_t gain;
} lane;

#define MAX_LANES 20
/* After so many samples, lanes that are 1/2^LAP_SHARE and LAP_SLACK behind the best give up. */
#define LAP 128
#define LAP_SHARE 4
#define LAP_SLACK 1024

EAE_INLINE void lane_step(
    lane *v, const channel *s, size_t t, int64_t half, int shift, const int filtered)
{
    const int64_t delta = s->delta;
    int64_t origin = v->center, mean, c0, gap, now;
    uint32_t k;
    if (v->gain)
        origin += down((int64_t)v->gain * s->reference[t] + 4, 3);
    if (filtered && v->p.far)
        far_push(&v->p, t ? (int64_t)s->reference[t] - s->reference[t - 1] : 0);
    mean = predict_base(&v->p) + (filtered ? predict_filter(&v->p) : 0);
    c0 = clip(origin + down(mean + 8, 4), INDEX_LIMIT);
    gap = s->x[t] - c0;
    k = (uint32_t)(size_of(gap) + half);
    if (delta > 1)
        k /= (uint32_t)delta;
    now = c0 + (gap < 0 ? -(int64_t)k : (int64_t)k) * delta - origin;
    v->sum += k;
    if ((t & 7) == 7) {
        v->cost += cost_of(v->sum);
        v->sum = 0;
    }
    if (filtered) {
        v->size += down(((int64_t)k << 16) - v->size, shift);
        filter_learn(&v->p, 16 * now - mean, down((3 * v->size + 19661) * delta, 12));
        filter_push(&v->p, t ? now - v->last : 0);
    }
    base_push(&v->p, now);
    v->last = now;
}

/* Sends home the lanes that fell behind; returns how many go on, the first ones of `running`. */
static size_t next_lap(lane **running, size_t n, size_t t, size_t steps)
{
    int64_t best = running[0]->cost, most;
    size_t i, left = 0;
    for (i = 1; i < n; i++)
        best = running[i]->cost < best ? running[i]->cost : best;
    most = best + (best >> LAP_SHARE) + LAP_SLACK;
    for (i = 0; i < n; i++) {
        if (running[i]->cost > most)
            running[i]->behind = (running[i]->cost - best) / (int64_t)(t / LAP) *
                (int64_t)((steps + LAP - 1) / LAP);
        else
            running[left++] = running[i];
    }
    return left;
}

#define MEASURE(name, target, filtered) \
    target static void name(const channel *s, lane **running, size_t n) \
    { \
        const int64_t half = (s->delta - 1) / 2; \
        size_t t, i; \
        for (t = 0; t < s->steps; t++) { \
            int begin = t > 13 ? 4 : bit_length(t + 2) - 1; \
            if (t > 0 && t % LAP == 0) \
                n = next_lap(running, n, t, s->steps); \
            for (i = 0; i < n; i++) \
                lane_step(running[i], s, t, half, begin, filtered); \
        } \
    }

MEASURE(measure_plain, , 0)
MEASURE(measure_filtered, , 1)
#ifdef EAE_WIDE
MEASURE(measure_plain_wide, EAE_WIDE, 0)
MEASURE(measure_filtered_wide, EAE_WIDE, 1)
#endif

static void measure(const channel *s, lane *v, size_t n, int filtered)
{
    lane *running[MAX_LANES];
    size_t i;
    for (i = 0; i < n; i++)
        running[i] = v + i;
#ifdef EAE_WIDE
    if (is_wide()) {
        (filtered ? measure_filtered_wide : measure_plain_wide)(s, running, n);
        return;
    }
#endif
    (filtered ? measure_filtered : measure_plain)(s, running, n);
}

static void lane_init(lane *v, const eae_classical_params *c, int32_t delta)
{
    memset(v, 0, sizeof *v);
    predictor_init(&v->p, c, delta);
    v->center = center_of(c, delta);
    v->gain = c->reference >= 0 ? c->gain : 0;
    v->size = (int64_t)1 << (13 + c->start);
}

static int64_t measure_planar(const channel *s, const eae_classical_params *c)
{
    const remainder z = {
        s->recon, s->reference, center_of(c, s->delta), c->reference >= 0 ? c->gain : 0};
    const int64_t delta = s->delta, half = (delta - 1) / 2;
    lane v;
    size_t t;
    lane_init(&v, c, s->delta);
    for (t = 0; t < s->steps; t++) {
        const int64_t origin = foretold(&z, t);
        int64_t base, mean, c0, gap;
        uint32_t k;
        neighbours near;
        if (v.p.far)
            far_push(&v.p, t ? (int64_t)s->reference[t] - s->reference[t - 1] : 0);
        look_around(&near, &z, t, s->width, s->height);
        base = median_edge(&near);
        mean = 16 * base;
        if (c->filter) {
            planar_inputs(&v.p, &near, base);
            mean += predict_filter(&v.p);
        }
        c0 = clip(origin + down(mean + 8, 4), INDEX_LIMIT);
        gap = s->x[t] - c0;
        k = (uint32_t)(size_of(gap) + half) / (uint32_t)delta;
        s->recon[t] = (int32_t)(c0 + (gap < 0 ? -(int64_t)k : (int64_t)k) * delta);
        v.sum += k;
        if ((t & 7) == 7) {
            v.cost += cost_of(v.sum);
            v.sum = 0;
        }
        v.size += down(((int64_t)k << 16) - v.size, t > 13 ? 4 : bit_length(t + 2) - 1);
        if (c->filter)
            filter_learn(
                &v.p, 16 * (s->recon[t] - origin) - mean, down((3 * v.size + 19661) * delta, 12));
    }
    return v.cost + cost_of(v.sum);
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

static void put_tools(eae_encoder *e, const eae_classical_params *c)
{
    eae_enc_bits(e, c->pitch > 0, 1);
    if (c->pitch) {
        eae_enc_bits(e, (uint32_t)c->pitch_bits, 5);
        eae_enc_bits(e, (uint32_t)bit_length((uint64_t)c->pitch) - 1, 5);
        eae_enc_bits(e, (uint32_t)c->pitch, bit_length((uint64_t)c->pitch) - 1);
        eae_enc_bits(e, c->phase < 0, 1);
        if (c->phase >= 0)
            eae_enc_bits(e, (uint32_t)c->phase, bit_length((uint64_t)c->pitch));
    }
    eae_enc_bits(e, c->tally > 0, 1);
    if (c->tally)
        eae_enc_bits(e, (uint32_t)c->tally - 1, 5);
    eae_enc_bits(e, c->lag > 0, 1);
    if (c->lag) {
        eae_enc_golomb(e, (uint32_t)c->lag - 1, 8);
        eae_enc_bits(e, (uint32_t)(c->gain + 32), 6);
    }
}

static void get_tools(eae_decoder *d, eae_classical_params *c)
{
    c->phase = -1;
    if (eae_dec_bits(d, 1)) {
        int n;
        c->pitch_bits = (int32_t)eae_dec_bits(d, 5);
        n = (int)eae_dec_bits(d, 5);
        d->bad |= c->pitch_bits > 16 || n > 29;
        if (d->bad)
            return;
        c->pitch = (int32_t)(eae_dec_bits(d, n) | 1u << n);
        d->bad |= c->pitch >> c->pitch_bits == 0;
        if (!eae_dec_bits(d, 1))
            c->phase = (int32_t)eae_dec_bits(d, n + 1);
    }
    if (eae_dec_bits(d, 1))
        c->tally = 1 + (int32_t)eae_dec_bits(d, 5);
    d->bad |= c->tally > 1 + EAE_CLASSICAL_MAX_SHIFT;
    if (eae_dec_bits(d, 1)) {
        uint32_t lag = eae_dec_golomb(d, 8);
        d->bad |= lag >= EAE_CLASSICAL_MAX_LAG || c->reference >= 0;
        c->lag = d->bad ? 0 : (int32_t)lag + 1;
        c->gain = (int32_t)eae_dec_bits(d, 6) - 32;
    }
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
    if (c->base != PLANAR) {
        eae_enc_bits(e, c->pitch || c->tally || c->lag, 1);
        if (c->pitch || c->tally || c->lag)
            put_tools(e, c);
    }
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
    if (c->base != PLANAR && eae_dec_bits(d, 1))
        get_tools(d, c);
    for (i = 0; i < c->base - 15 && c->base != PLANAR; i++) {
        c->reflection[i] = i < 2 ? (int32_t)eae_dec_bits(d, 7) - 64 : unzigzag(eae_dec_golomb(d, 3));
        if (c->reflection[i] < -63 || c->reflection[i] > 63)
            return 0;
    }
    return !d->bad && center_of(c, delta) <= INDEX_LIMIT + delta &&
        center_of(c, delta) >= -INDEX_LIMIT - delta;
}

/* ---- linear prediction ---- */

#define SIGNAL_BITS 20
#define POWER_BITS 42
#define FRACTION 40

/* x k / 2^FRACTION, rounded down, in two parts that fit 64 bits */
static int64_t scaled(int64_t x, int64_t k)
{
    const int half = FRACTION / 2;
    return down(x * down(k, half) + down(x * (k & (((int64_t)1 << half) - 1)), half), half);
}

/* 2^FRACTION a / b, rounded towards zero, for |a| <= b */
static int64_t ratio(int64_t a, int64_t b)
{
    const int64_t part = (int64_t)1 << (FRACTION / 2);
    const int64_t high = size_of(a) * part / b, low = (size_of(a) * part - high * b) * part / b;
    return a < 0 ? -(high * part + low) : high * part + low;
}

void eae_classical_reflect(
    const int64_t *y, int32_t *work, size_t n, int32_t delta, int32_t reflection[MAX_ORDER])
{
    const int64_t most_noise = (int64_t)1 << 36, one = (int64_t)1 << FRACTION;
    int64_t mean = 0, peak = 0, r[MAX_ORDER + 1], b[MAX_ORDER + 1], noise;
    size_t ramp = n / 16 > 0 ? n / 16 : 1, i;
    int bits = (62 - bit_length(n)) / 2, shift, lag, m;
    memset(reflection, 0, MAX_ORDER * sizeof *reflection);
    if (n <= 4 * MAX_ORDER)
        return;
    for (i = 0; i < n; i++)
        mean += y[i];
    mean = mean >= 0 ? mean / (int64_t)n : -((-mean + (int64_t)n - 1) / (int64_t)n);
    for (i = 0; i < n; i++)
        peak = size_of(y[i] - mean) > peak ? size_of(y[i] - mean) : peak;
    /* so many bits that the sums fit; faded in and out */
    shift = bit_length((uint64_t)peak) - (bits < SIGNAL_BITS ? bits : SIGNAL_BITS);
    for (i = 0; i < n; i++) {
        int64_t v = y[i] - mean;
        size_t end = i < n - 1 - i ? i : n - 1 - i;
        v = shift > 0 ? down(v, shift) : v * ((int64_t)1 << -shift);
        if (end < ramp) {
            int64_t s = (int64_t)((2 * end + 1) * 65536 / (2 * ramp));
            v = down(v * (((s * s) >> 16) * (3 * 65536 - 2 * s) >> 16), 16);
        }
        work[i] = (int32_t)v;
    }
    for (lag = 0; lag <= MAX_ORDER; lag++) {
        int64_t sum = 0;
        for (i = (size_t)lag; i < n; i++)
            sum += (int64_t)work[i] * work[i - (size_t)lag];
        r[lag] = sum;
    }
    /* the quantizer's noise is part of what is predicted from */
    noise = delta > 1 ? (int64_t)delta * delta : 0;
    if (shift > 0)
        noise = down(noise / 12, 2 * shift);
    else if (bit_length((uint64_t)noise) - 2 * shift > 44)
        noise = most_noise;
    else
        noise = noise * ((int64_t)1 << (-2 * shift)) / 12;
    noise = noise < most_noise ? noise : most_noise;
    r[0] += down(r[0], 30) + 1 + (int64_t)n * noise;
    shift = bit_length((uint64_t)r[0]) - POWER_BITS;
    for (lag = 0; lag <= MAX_ORDER; lag++)
        b[lag] = r[lag] = shift > 0 ? down(r[lag], shift) : r[lag] * ((int64_t)1 << -shift);
    /* Schur's recursion: b holds the backward errors, one step late */
    for (m = 0; m < MAX_ORDER; m++) {
        int64_t k, size;
        int q = 0;
        if (b[m] < 1)
            break;
        k = clip(ratio(clip(r[m + 1], b[m]), b[m]), one - (one >> 13));
        for (lag = MAX_ORDER; lag > m; lag--) {
            int64_t ahead = r[lag], behind = b[lag - 1];
            r[lag] = ahead - scaled(behind, k);
            b[lag] = behind - scaled(ahead, k);
        }
        size = down(size_of(k), FRACTION - 16);
        while (q < 63 && size >= sine[q] + sine[q + 1])
            q++;
        reflection[m] = k < 0 ? -q : q;
    }
}

/* ---- the entries ---- */

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
    size_t cap, int64_t *spent)
{
    eae_encoder e;
    int bits;
    eae_enc_init(&e, out, cap);
    put_params(&e, params, reference != NULL, width > 0);
    if (!code_channel(
            &e, NULL, x, params->reference >= 0 ? reference : NULL, recon, sizes, steps, delta,
            width, height, params))
        return EAE_OVERFLOW;
    bits = bit_length(e.range);
    *spent = 256 * (8 * (int64_t)e.pos + 32 - bits) -
        (int64_t)(((uint64_t)e.range << 8 >> (bits - 1)) & 255u);
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

void eae_classical_measure(
    const int32_t *x, const int32_t *reference, int32_t *recon, size_t steps, int32_t delta,
    size_t width, size_t height, const eae_classical_params *params, size_t n, int64_t *cost)
{
    const channel s = {x, reference, recon, NULL, steps, delta, width, height};
    lane v[MAX_LANES];
    size_t done = 0;
    while (done < n) {
        const int filtered = params[done].filter != 0;
        int64_t best = INT64_MAX;
        size_t count = 0, i;
        if (params[done].base == PLANAR) {
            cost[done] = measure_planar(&s, params + done);
            done++;
            continue;
        }
        while (count < MAX_LANES && done + count < n && params[done + count].base != PLANAR &&
               (params[done + count].filter != 0) == filtered) {
            lane_init(v + count, params + done + count, delta);
            count++;
        }
        measure(&s, v, count, filtered);
        for (i = 0; i < count; i++) {
            v[i].cost += cost_of(v[i].sum);
            if (!v[i].behind && v[i].cost < best)
                best = v[i].cost;
        }
        for (i = 0; i < count; i++)
            cost[done + i] = v[i].behind ? best + v[i].behind : v[i].cost;
        done += count;
    }
}
