#include "net.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define ALIGN64 __attribute__((aligned(64)))
#define DO_PRAGMA(x) _Pragma(#x)
#define UNROLL DO_PRAGMA(GCC unroll 32)
#else
#define INLINE static inline
#define NOINLINE
#define ALIGN64
#define UNROLL
#define restrict
#endif

#if defined(EAE_PLAIN_C) /* for tests, and for compilers that know no vectors */
#elif defined(__GNUC__) && defined(__x86_64__)
#define HAS_X86 1
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)
#define HAS_NEON 1
#include <arm_neon.h>
#endif

/* Round half to even of a number within +-2^22, in a way that compilers turn into vectors. */
#if FLT_EVAL_METHOD == 0
#define ROUND(y) (((y) + 12582912.0f) - 12582912.0f)
#else
#define ROUND(y) rintf(y)
#endif

/* ---- steps ---- */

/* A convolution (a matrix product is one with a single position), read from its words. */
typedef struct {
    const int32_t *bias, *round, *odd, *shift; /* n_blocks * 16; bias holds floats in a float net */
    const int32_t *segment;                    /* where each run begins, from the window's start */
    const int32_t *block;                      /* pairs: where its outputs go, how many they are */
    const void *weight;
    int32_t n_h, n_w, src_h, src_w, dst_h, dst_w;
    int32_t n_segments, n_length, n_blocks, weight_bytes;
    int32_t lo, hi, wide;
    float float_lo, float_hi;
} eae_conv;

typedef struct {
    void (*conv8)(const eae_conv *, const int16_t *, char *);
    void (*conv16)(const eae_conv *, const int16_t *, char *);
    void (*conv_float)(const eae_conv *, const float *, float *);
    int (*input)(
        const float *, int16_t *, size_t, const float *, const float *, float, float);
    void (*output)(const int16_t *, float *, size_t, float, float);
    void (*add)(const int16_t *, const int16_t *, int16_t *, size_t, int32_t, int32_t);
} eae_kernels;

/* Positions of a step's words, after its kind and its length. */
enum { IN_SRC = 2, IN_DST, IN_N, IN_S = IN_N + 3, IN_D = IN_S + 3, IN_AFFINE = IN_D + 3,
       IN_PER_CHANNEL, IN_STRICT, IN_LO, IN_HI, IN_END };
enum { OUT_SRC = 2, OUT_DST, OUT_N, OUT_S = OUT_N + 3, OUT_D = OUT_S + 3, OUT_AFFINE = OUT_D + 3,
       OUT_PER_CHANNEL, OUT_WIDE, OUT_END };
enum { COPY_SRC = 2, COPY_DST, COPY_N, COPY_S = COPY_N + EAE_MAX_DIMS,
       COPY_D = COPY_S + EAE_MAX_DIMS, COPY_END = COPY_D + EAE_MAX_DIMS };
enum { ZERO_DST = 2, ZERO_N, ZERO_STRIDE, ZERO_LENGTH, ZERO_END };
enum { CONV_SRC = 2, CONV_DST, CONV_NH, CONV_NW, CONV_SRC_H, CONV_SRC_W, CONV_DST_H, CONV_DST_W,
       CONV_SEGMENTS, CONV_LENGTH, CONV_SEGMENT, CONV_BLOCKS, CONV_BLOCK, CONV_WEIGHT, CONV_BYTES,
       CONV_CONSTS, CONV_LO, CONV_HI, CONV_WIDE, CONV_END };
enum { ADD_A = 2, ADD_B, ADD_DST, ADD_N, ADD_SA = ADD_N + 3, ADD_SB = ADD_SA + 3,
       ADD_D = ADD_SB + 3, ADD_LEFT_A = ADD_D + 3, ADD_LEFT_B, ADD_SHIFT, ADD_LO, ADD_HI, ADD_END };

static float as_float(int32_t word)
{
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static void read_conv(const eae_program *p, const int32_t *w, eae_conv *c)
{
    const int32_t *consts = (const int32_t *)(p->constants + w[CONV_CONSTS]);
    c->n_h = w[CONV_NH];
    c->n_w = w[CONV_NW];
    c->src_h = w[CONV_SRC_H];
    c->src_w = w[CONV_SRC_W];
    c->dst_h = w[CONV_DST_H];
    c->dst_w = w[CONV_DST_W];
    c->n_segments = w[CONV_SEGMENTS];
    c->n_length = w[CONV_LENGTH];
    c->n_blocks = w[CONV_BLOCKS];
    c->segment = (const int32_t *)(p->constants + w[CONV_SEGMENT]);
    c->block = (const int32_t *)(p->constants + w[CONV_BLOCK]);
    c->weight = p->constants + w[CONV_WEIGHT];
    c->weight_bytes = w[CONV_BYTES];
    c->bias = consts;
    c->round = consts + (size_t)c->n_blocks * EAE_BLOCK;
    c->odd = c->round + (size_t)c->n_blocks * EAE_BLOCK;
    c->shift = c->odd + (size_t)c->n_blocks * EAE_BLOCK;
    c->lo = w[CONV_LO];
    c->hi = w[CONV_HI];
    c->float_lo = as_float(w[CONV_LO]);
    c->float_hi = as_float(w[CONV_HI]);
    c->wide = w[CONV_WIDE];
}

/* ---- one kernel set per instruction set ---- */

#if defined(HAS_X86)

#define NAME(x) x##_vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define LANES 16
#define TILE 8
#define TILE_BLOCKS 3
#define ROW_BLOCKS 8
#define vec __m512i
#define weights __m512i
#define fvec __m512
#define LOAD8(p) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(p)))
#define LOAD16(p) _mm512_loadu_si512(p)
#define PAIR(p) _mm512_set1_epi32(pair_at(p))
#define DOT(acc, x, w) _mm512_dpwssd_epi32(acc, x, w)
#define SUMS(p) _mm512_loadu_si512(p)
#define STORE(p, a) _mm512_storeu_si512(p, a)
#define LOADF(p) _mm512_loadu_ps(p)
#define STOREF(p, a) _mm512_storeu_ps(p, a)
#define ONEF(p) _mm512_set1_ps(*(p))
#define MADF(acc, x, w) _mm512_fmadd_ps(x, w, acc)

static inline __attribute__((always_inline)) int32_t pair_at(const int16_t *p)
{
    int32_t both;
    memcpy(&both, p, sizeof both);
    return both;
}

#include "net_kernel.h"

#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TILE 4
#define TILE_BLOCKS 1
#define ROW_BLOCKS 4
#define vec __m256i
#define weights __m256i
#define fvec __m256
#define LOAD8(p) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p)))
#define LOAD16(p) _mm256_loadu_si256((const __m256i *)(p))
#define PAIR(p) _mm256_set1_epi32(pair_at(p))
#define DOT(acc, x, w) _mm256_add_epi32(acc, _mm256_madd_epi16(x, w))
#define SUMS(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, a) _mm256_storeu_si256((__m256i *)(p), a)
#define LOADF(p) _mm256_loadu_ps(p)
#define STOREF(p, a) _mm256_storeu_ps(p, a)
#define ONEF(p) _mm256_set1_ps(*(p))
#define MADF(acc, x, w) _mm256_fmadd_ps(x, w, acc)
#include "net_kernel.h"

#define NAME(x) x##_base
#define TARGET
#define LANES 4
#define TILE 2
#define TILE_BLOCKS 1
#define ROW_BLOCKS 2
#define vec __m128i
#define weights __m128i
#define fvec __m128
#define LOAD8(p) widened(_mm_loadl_epi64((const __m128i *)(p)))
#define LOAD16(p) _mm_loadu_si128((const __m128i *)(p))
#define PAIR(p) _mm_set1_epi32(pair_at(p))
#define DOT(acc, x, w) _mm_add_epi32(acc, _mm_madd_epi16(x, w))
#define SUMS(p) _mm_loadu_si128((const __m128i *)(p))
#define STORE(p, a) _mm_storeu_si128((__m128i *)(p), a)
#define LOADF(p) _mm_loadu_ps(p)
#define STOREF(p, a) _mm_storeu_ps(p, a)
#define ONEF(p) _mm_set1_ps(*(p))
#define MADF(acc, x, w) _mm_add_ps(acc, _mm_mul_ps(x, w))

static inline __m128i widened(__m128i bytes)
{
    return _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
}

#include "net_kernel.h"

#elif defined(HAS_NEON)

/* A vec is two halves of partial sums, added when it is stored. */
typedef struct {
    int32x4_t low, high;
} halves;

INLINE halves dot_halves(halves acc, int16x8_t x, int16x8_t w)
{
    acc.low = vmlal_s16(acc.low, vget_low_s16(x), vget_low_s16(w));
    acc.high = vmlal_high_s16(acc.high, x, w);
    return acc;
}

INLINE halves start_halves(const int32_t *p)
{
    halves acc;
    int32x4_t sums = vld1q_s32(p), zero = vdupq_n_s32(0);
    acc.low = vzip1q_s32(sums, zero);
    acc.high = vzip2q_s32(sums, zero);
    return acc;
}

INLINE int16x8_t pair_at(const int16_t *p)
{
    int32_t both;
    memcpy(&both, p, sizeof both);
    return vreinterpretq_s16_s32(vdupq_n_s32(both));
}

#define NAME(x) x##_base
#define TARGET
#define LANES 4
#define TILE 2
#define TILE_BLOCKS 1
#define ROW_BLOCKS 1
#define vec halves
#define fvec float32x4_t
#define weights int16x8_t
#define LOAD8(p) vmovl_s8(vld1_s8(p))
#define LOAD16(p) vld1q_s16(p)
#define PAIR(p) pair_at(p)
#define DOT(acc, x, w) dot_halves(acc, x, w)
#define SUMS(p) start_halves(p)
#define STORE(p, a) vst1q_s32(p, vpaddq_s32((a).low, (a).high))
#define LOADF(p) vld1q_f32(p)
#define STOREF(p, a) vst1q_f32(p, a)
#define ONEF(p) vdupq_n_f32(*(p))
#define MADF(acc, x, w) vfmaq_f32(acc, x, w)
#include "net_kernel.h"

#else

typedef struct {
    int32_t v[4];
} four;
typedef struct {
    int16_t v[8];
} eight;
typedef struct {
    float v[4];
} four_floats;

INLINE eight load8(const int8_t *p)
{
    eight w;
    int i;
    for (i = 0; i < 8; i++)
        w.v[i] = p[i];
    return w;
}

INLINE eight load16(const int16_t *p)
{
    eight w;
    memcpy(w.v, p, sizeof w.v);
    return w;
}

INLINE eight pair_at(const int16_t *p)
{
    eight x;
    int i;
    for (i = 0; i < 8; i++)
        x.v[i] = p[i & 1];
    return x;
}

INLINE four dot_four(four acc, eight x, eight w)
{
    int i;
    for (i = 0; i < 4; i++)
        acc.v[i] += (int32_t)x.v[2 * i] * w.v[2 * i] + (int32_t)x.v[2 * i + 1] * w.v[2 * i + 1];
    return acc;
}

INLINE four sums_at(const int32_t *p)
{
    four acc;
    memcpy(acc.v, p, sizeof acc.v);
    return acc;
}

INLINE four_floats floats_at(const float *p)
{
    four_floats acc;
    memcpy(acc.v, p, sizeof acc.v);
    return acc;
}

INLINE four_floats one_float(const float *p)
{
    four_floats x;
    int i;
    for (i = 0; i < 4; i++)
        x.v[i] = *p;
    return x;
}

INLINE four_floats mad_floats(four_floats acc, four_floats x, four_floats w)
{
    int i;
    for (i = 0; i < 4; i++)
        acc.v[i] += x.v[i] * w.v[i];
    return acc;
}

#define NAME(x) x##_base
#define TARGET
#define LANES 4
#define TILE 2
#define TILE_BLOCKS 1
#define ROW_BLOCKS 1
#define vec four
#define fvec four_floats
#define weights eight
#define LOAD8(p) load8(p)
#define LOAD16(p) load16(p)
#define PAIR(p) pair_at(p)
#define DOT(acc, x, w) dot_four(acc, x, w)
#define SUMS(p) sums_at(p)
#define STORE(p, a) memcpy(p, (a).v, sizeof(a).v)
#define LOADF(p) floats_at(p)
#define STOREF(p, a) memcpy(p, (a).v, sizeof(a).v)
#define ONEF(p) one_float(p)
#define MADF(acc, x, w) mad_floats(acc, x, w)
#include "net_kernel.h"

#endif

static int list_clones(const char *names[EAE_MAX_CLONES], const eae_kernels *sets[EAE_MAX_CLONES])
{
    int n = 0;
#if defined(HAS_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        names[n] = "avx512vnni";
        sets[n++] = &kernels_vnni;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        names[n] = "avx2";
        sets[n++] = &kernels_avx2;
    }
    names[n] = "sse2";
#elif defined(HAS_NEON)
    names[n] = "neon";
#else
    names[n] = "c";
#endif
    sets[n++] = &kernels_base;
    return n;
}

int eae_program_clones(const char *names[EAE_MAX_CLONES])
{
    const eae_kernels *sets[EAE_MAX_CLONES];
    return list_clones(names, sets);
}

/* ---- the check ---- */

/* The last place that a nest of loops reaches from `first`, or -1 where a stride or count is bad. */
static int64_t last_place(int64_t first, const int32_t *n, const int32_t *stride, int dims)
{
    int i;
    if (first < 0)
        return -1;
    for (i = 0; i < dims; i++) {
        if (n[i] < 1 || stride[i] < 0)
            return -1;
        first += (int64_t)(n[i] - 1) * stride[i];
    }
    return first;
}

static int inside(int64_t last, int64_t size, size_t item)
{
    return last >= 0 && last < size / (int64_t)item;
}

/* Whether a nest of loops makes no more steps than there are places: what is written is written
 * once, so more is a mistake, and could take for ever. */
static int is_short(const int32_t *n, int dims, int64_t size, size_t item)
{
    int64_t steps = 1;
    int i;
    for (i = 0; i < dims; i++) {
        if (n[i] < 1 || steps > size / n[i])
            return 0;
        steps *= n[i];
    }
    return steps <= size / (int64_t)item;
}

/* Whether the constants hold n items of 4 bytes (or of `item` bytes) there. */
static int has_constants(const eae_program *p, int32_t at, int64_t n, size_t item, int32_t align)
{
    return at >= 0 && at % align == 0 && n >= 0 &&
        (int64_t)at + n * (int64_t)item <= (int64_t)p->n_constants;
}

static const char *check_conv(const eae_program *p, const int32_t *w, size_t item)
{
    const int64_t arena = (int64_t)p->arena_size;
    const int32_t n[2] = {w[CONV_NH], w[CONV_NW]};
    const int32_t from[2] = {w[CONV_SRC_H], w[CONV_SRC_W]}, to[2] = {w[CONV_DST_H], w[CONV_DST_W]};
    const int64_t lanes = (int64_t)w[CONV_BLOCKS] * EAE_BLOCK;
    const int64_t per_step = p->is_float ? 1 : 2;
    const size_t weight_item = p->is_float ? sizeof(float) : (size_t)w[CONV_BYTES];
    int64_t source = last_place(w[CONV_SRC], n, from, 2), target = last_place(w[CONV_DST], n, to, 2);
    const int32_t *table;
    int32_t i;
    if (source < 0 || target < 0 || !is_short(n, 2, arena, item))
        return "a convolution's loops are out of range";
    if (w[CONV_SEGMENTS] < 1 || w[CONV_LENGTH] < 1 || w[CONV_BLOCKS] < 1 || w[CONV_WIDE] < 0 ||
        w[CONV_WIDE] > 1 || w[CONV_SEGMENTS] > (1 << 16) || w[CONV_LENGTH] > (1 << 24) ||
        w[CONV_BLOCKS] > (1 << 16))
        return "a convolution's sizes are out of range";
    if (!p->is_float && w[CONV_BYTES] != 1 && w[CONV_BYTES] != 2)
        return "a convolution's weights have neither 8 nor 16 bits";
    if (!has_constants(p, w[CONV_SEGMENT], w[CONV_SEGMENTS], 4, 4) ||
        !has_constants(p, w[CONV_BLOCK], 2 * (int64_t)w[CONV_BLOCKS], 4, 4) ||
        !has_constants(p, w[CONV_CONSTS], (p->is_float ? 1 : 4) * lanes, 4, 64))
        return "a convolution's tables lie outside the constants";
    if ((double)lanes * w[CONV_SEGMENTS] * w[CONV_LENGTH] * (double)per_step > 1e12 ||
        !has_constants(
            p, w[CONV_WEIGHT], lanes * w[CONV_SEGMENTS] * w[CONV_LENGTH] * per_step, weight_item,
            64))
        return "a convolution's weights lie outside the constants";
    table = (const int32_t *)(p->constants + w[CONV_SEGMENT]);
    for (i = 0; i < w[CONV_SEGMENTS]; i++) {
        if (table[i] < 0 ||
            !inside(source + table[i] + (int64_t)w[CONV_LENGTH] * per_step - 1, arena, item))
            return "a convolution reads outside the arena";
    }
    table = (const int32_t *)(p->constants + w[CONV_BLOCK]);
    for (i = 0; i < w[CONV_BLOCKS]; i++) {
        if (table[2 * i] < 0 || table[2 * i + 1] < 1 || table[2 * i + 1] > EAE_BLOCK ||
            !inside(
                target + table[2 * i] + table[2 * i + 1] - 1, arena,
                w[CONV_WIDE] ? sizeof(int32_t) : item))
            return "a convolution writes outside the arena";
    }
    if (!p->is_float) {
        const int32_t *consts = (const int32_t *)(p->constants + w[CONV_CONSTS]);
        int64_t l;
        for (l = 0; l < lanes; l++) {
            if (consts[3 * lanes + l] < 0 || consts[3 * lanes + l] > 30)
                return "a shift is out of range";
        }
        if (w[CONV_LO] > w[CONV_HI] ||
            (!w[CONV_WIDE] && (w[CONV_LO] < INT16_MIN || w[CONV_HI] > INT16_MAX)))
            return "a convolution's range is out of range";
    }
    return NULL;
}

static const char *check_step(const eae_program *p, const int32_t *w, int32_t length)
{
    const int64_t arena = (int64_t)p->arena_size;
    const size_t item = p->is_float ? sizeof(float) : sizeof(int16_t);
    const int64_t per_run = p->rows > 0 ? p->rows : 1;
    const int rows_at[] = {0, IN_N + 1, OUT_N + 1, COPY_N, 0, CONV_NW, ADD_N};
    if (p->rows > 0 && w[0] >= EAE_STEP_INPUT && w[0] <= EAE_STEP_ADD && rows_at[w[0]] > 0 &&
        (length <= rows_at[w[0]] || w[rows_at[w[0]]] != p->rows))
        return "a step works on another number of rows than the program";
    switch (w[0]) {
    case EAE_STEP_INPUT:
        if (length != IN_END ||
            !inside(
                last_place(w[IN_SRC], w + IN_N, w + IN_S, 3), per_run * p->n_in * 4,
                sizeof(float)) ||
            !inside(last_place(w[IN_DST], w + IN_N, w + IN_D, 3), arena, item) ||
            !is_short(w + IN_N, 3, arena, item))
            return "the input lies outside its place";
        if (!has_constants(
                p, w[IN_AFFINE], 2 * (int64_t)(w[IN_PER_CHANNEL] ? w[IN_N] : 1), 4, 4))
            return "the input's constants lie outside the constants";
        if (!p->is_float && !(as_float(w[IN_LO]) >= INT16_MIN && as_float(w[IN_HI]) <= INT16_MAX &&
                              as_float(w[IN_LO]) <= as_float(w[IN_HI])))
            return "the input's range is out of range";
        return NULL;
    case EAE_STEP_OUTPUT:
        if (length != OUT_END ||
            !inside(
                last_place(w[OUT_SRC], w + OUT_N, w + OUT_S, 3), arena,
                w[OUT_WIDE] ? sizeof(int32_t) : item) ||
            !inside(
                last_place(w[OUT_DST], w + OUT_N, w + OUT_D, 3), per_run * p->n_out * 4,
                sizeof(float)) ||
            !is_short(w + OUT_N, 3, per_run * p->n_out * 4, sizeof(float)))
            return "the output lies outside its place";
        if (!has_constants(
                p, w[OUT_AFFINE], 2 * (int64_t)(w[OUT_PER_CHANNEL] ? w[OUT_N] : 1), 4, 4))
            return "the output's constants lie outside the constants";
        return NULL;
    case EAE_STEP_COPY:
        if (length != COPY_END ||
            !inside(last_place(w[COPY_SRC], w + COPY_N, w + COPY_S, EAE_MAX_DIMS), arena, item) ||
            !inside(last_place(w[COPY_DST], w + COPY_N, w + COPY_D, EAE_MAX_DIMS), arena, item) ||
            !is_short(w + COPY_N, EAE_MAX_DIMS, arena, item))
            return "a copy lies outside the arena";
        return NULL;
    case EAE_STEP_ZERO:
        if (length != ZERO_END || w[ZERO_LENGTH] < 1 ||
            !inside(
                last_place(
                    (int64_t)w[ZERO_DST] + w[ZERO_LENGTH] - 1, w + ZERO_N, w + ZERO_STRIDE, 1),
                arena, item) ||
            w[ZERO_DST] < 0 || !is_short(w + ZERO_N, 1, arena / w[ZERO_LENGTH], item))
            return "a border lies outside the arena";
        return NULL;
    case EAE_STEP_CONV:
        return length != CONV_END ? "a step is cut short" : check_conv(p, w, item);
    case EAE_STEP_ADD:
        if (length != ADD_END ||
            !inside(last_place(w[ADD_A], w + ADD_N, w + ADD_SA, 3), arena, item) ||
            !inside(last_place(w[ADD_B], w + ADD_N, w + ADD_SB, 3), arena, item) ||
            !inside(last_place(w[ADD_DST], w + ADD_N, w + ADD_D, 3), arena, item) ||
            !is_short(w + ADD_N, 3, arena, item))
            return "a sum lies outside the arena";
        if (!p->is_float &&
            (w[ADD_LEFT_A] < 0 || w[ADD_LEFT_A] > 15 || w[ADD_LEFT_B] < 0 || w[ADD_LEFT_B] > 15 ||
             w[ADD_SHIFT] < 0 || w[ADD_SHIFT] > 30 || w[ADD_LO] < INT16_MIN ||
             w[ADD_HI] > INT16_MAX || w[ADD_LO] > w[ADD_HI]))
            return "a sum's range is out of range";
        return NULL;
    default:
        return "a step of an unknown kind";
    }
}

const char *eae_program_check(
    eae_program *program, const int32_t *words, size_t n_words, const char *constants,
    size_t n_constants)
{
    size_t at = EAE_PROGRAM_HEADER;
    int32_t i;
    if (n_words < EAE_PROGRAM_HEADER || words[0] != EAE_PROGRAM_MAGIC || n_words > INT32_MAX ||
        n_constants > INT32_MAX)
        return "not a program";
    if (words[1] < 0 || words[1] > 1 || words[2] < 0 || words[3] < 0 || words[4] < 1 ||
        words[5] < 1 || words[6] < 0 || words[6] > (1 << 16) || words[7] != 0)
        return "the program's header is out of range";
    program->words = words;
    program->n_words = n_words;
    program->constants = constants;
    program->n_constants = n_constants;
    program->is_float = words[1];
    program->n_steps = words[2];
    program->arena_size = (size_t)words[3];
    program->n_in = words[4];
    program->n_out = words[5];
    program->rows = words[6];
    for (i = 0; i < program->n_steps; i++) {
        const char *wrong;
        if (n_words - at < 2 || words[at + 1] < 2 || (size_t)words[at + 1] > n_words - at)
            return "a step is cut short";
        wrong = check_step(program, words + at, words[at + 1]);
        if (wrong != NULL)
            return wrong;
        at += (size_t)words[at + 1];
    }
    return at == n_words ? NULL : "words are left over";
}

/* ---- the run ---- */

#define CHUNK 256

/* Which of three loops is best the innermost: the one whose float side is contiguous. */
static int inner_loop(const int32_t *n, const int32_t *stride)
{
    int i, best = 2;
    int32_t most = 0;
    for (i = 2; i >= 0; i--) {
        if ((stride[i] == 1 || n[i] == 1) && n[i] > most) {
            most = n[i];
            best = i;
        }
    }
    return best;
}

static int run_input(
    const eae_program *p, const eae_kernels *k, const int32_t *w, int32_t rows, const float *in,
    char *arena)
{
    int32_t n[3];
    const int32_t *s = w + IN_S, *d = w + IN_D;
    const int per_channel = w[IN_PER_CHANNEL] != 0;
    const float *sub = (const float *)(p->constants + w[IN_AFFINE]);
    const float *mul = sub + (per_channel ? w[IN_N] : 1);
    const float lo = as_float(w[IN_LO]), hi = as_float(w[IN_HI]), none = 0, one = 1;
    int axis, first, second, bad = 0;
    int32_t i, j, at;
    memcpy(n, w + IN_N, sizeof n);
    if (p->rows > 0)
        n[1] = rows;
    axis = inner_loop(n, s);
    first = axis == 0 ? 1 : 0;
    second = axis == 2 ? 1 : 2;
    for (i = 0; i < n[first]; i++) {
        for (j = 0; j < n[second]; j++) {
            const float *from = in + w[IN_SRC] + (ptrdiff_t)i * s[first] + (ptrdiff_t)j * s[second];
            const ptrdiff_t to = w[IN_DST] + (ptrdiff_t)i * d[first] + (ptrdiff_t)j * d[second];
            const int32_t channel = per_channel && first == 0 ? i : 0;
            for (at = 0; at < n[axis]; at += CHUNK) {
                const int32_t left = n[axis] - at < CHUNK ? n[axis] - at : CHUNK;
                const float *part = from + (ptrdiff_t)at * s[axis];
                float gathered[CHUNK];
                int16_t whole[CHUNK];
                int32_t q;
                const float *less = sub + channel, *times = mul + channel;
                if (per_channel && axis == 0) {
                    for (q = 0; q < left; q++)
                        gathered[q] =
                            (part[(ptrdiff_t)q * s[axis]] - sub[at + q]) * mul[at + q];
                    part = gathered;
                    less = &none;
                    times = &one;
                } else if (s[axis] != 1) {
                    for (q = 0; q < left; q++)
                        gathered[q] = part[(ptrdiff_t)q * s[axis]];
                    part = gathered;
                }
                if (p->is_float) {
                    float *dst = (float *)arena + to + (ptrdiff_t)at * d[axis];
                    for (q = 0; q < left; q++) {
                        float v = (part[q] - *less) * *times;
                        v = v < lo ? lo : v;
                        dst[(ptrdiff_t)q * d[axis]] = v > hi ? hi : v;
                    }
                } else {
                    int16_t *dst = (int16_t *)arena + to + (ptrdiff_t)at * d[axis];
                    int16_t *into = d[axis] == 1 ? dst : whole;
                    bad |= k->input(
                        part, into, (size_t)left, less, times, lo, hi);
                    if (into == whole) {
                        for (q = 0; q < left; q++)
                            dst[(ptrdiff_t)q * d[axis]] = whole[q];
                    }
                }
            }
        }
    }
    return bad && w[IN_STRICT];
}

static void run_output(
    const eae_program *p, const eae_kernels *k, const int32_t *w, int32_t rows, float *out,
    const char *arena)
{
    int32_t n[3];
    const int32_t *s = w + OUT_S, *d = w + OUT_D;
    const int per_channel = w[OUT_PER_CHANNEL] != 0;
    const float *scale = (const float *)(p->constants + w[OUT_AFFINE]);
    const float *offset = scale + (per_channel ? w[OUT_N] : 1);
    int axis, first, second;
    int32_t i, j, q;
    memcpy(n, w + OUT_N, sizeof n);
    if (p->rows > 0)
        n[1] = rows;
    axis = inner_loop(n, d);
    first = axis == 0 ? 1 : 0;
    second = axis == 2 ? 1 : 2;
    for (i = 0; i < n[first]; i++) {
        for (j = 0; j < n[second]; j++) {
            const ptrdiff_t from =
                w[OUT_SRC] + (ptrdiff_t)i * s[first] + (ptrdiff_t)j * s[second];
            float *to = out + w[OUT_DST] + (ptrdiff_t)i * d[first] + (ptrdiff_t)j * d[second];
            const int32_t channel = per_channel && first == 0 ? i : 0;
            const float *a = scale + channel, *b = offset + channel;
            const ptrdiff_t each = per_channel && axis == 0; /* its own scale for each number? */
            if (p->is_float) {
                const float *src = (const float *)arena + from;
                for (q = 0; q < n[axis]; q++)
                    to[(ptrdiff_t)q * d[axis]] =
                        src[(ptrdiff_t)q * s[axis]] * a[q * each] + b[q * each];
            } else if (w[OUT_WIDE]) {
                const int32_t *src = (const int32_t *)arena + from;
                if (each && s[axis] == 1 && d[axis] == 1) {
                    for (q = 0; q < n[axis]; q++)
                        to[q] = (float)src[q] * a[q] + b[q];
                } else {
                    for (q = 0; q < n[axis]; q++)
                        to[(ptrdiff_t)q * d[axis]] =
                            (float)src[(ptrdiff_t)q * s[axis]] * a[q * each] + b[q * each];
                }
            } else {
                const int16_t *src = (const int16_t *)arena + from;
                if (!each && s[axis] == 1 && d[axis] == 1) {
                    k->output(src, to, (size_t)n[axis], *a, *b);
                } else {
                    for (q = 0; q < n[axis]; q++)
                        to[(ptrdiff_t)q * d[axis]] =
                            (float)src[(ptrdiff_t)q * s[axis]] * a[q * each] + b[q * each];
                }
            }
        }
    }
}

static void run_copy(
    const int32_t *w, const int32_t *n, size_t item, int dim, const char *src, char *dst)
{
    const ptrdiff_t s = (ptrdiff_t)w[COPY_S + dim] * (ptrdiff_t)item;
    const ptrdiff_t d = (ptrdiff_t)w[COPY_D + dim] * (ptrdiff_t)item;
    int32_t i;
    if (dim < EAE_MAX_DIMS - 1) {
        for (i = 0; i < n[dim]; i++)
            run_copy(w, n, item, dim + 1, src + i * s, dst + i * d);
    } else if (s == (ptrdiff_t)item && d == (ptrdiff_t)item) {
        memcpy(dst, src, (size_t)n[dim] * item);
    } else if (item == sizeof(int16_t)) {
        for (i = 0; i < n[dim]; i++)
            memcpy(dst + i * d, src + i * s, sizeof(int16_t));
    } else {
        for (i = 0; i < n[dim]; i++)
            memcpy(dst + i * d, src + i * s, sizeof(float));
    }
}

static void run_add(
    const eae_program *p, const eae_kernels *k, const int32_t *w, int32_t rows, char *arena)
{
    const int32_t *sa = w + ADD_SA, *sb = w + ADD_SB, *d = w + ADD_D;
    const int32_t shift = w[ADD_SHIFT], odd = shift > 0;
    const int32_t round = shift > 0 ? (1 << (shift - 1)) - 1 : 0;
    const int32_t left_a = 1 << w[ADD_LEFT_A], left_b = 1 << w[ADD_LEFT_B];
    const int plain = !shift && left_a == 1 && left_b == 1 && sa[2] == 1 && sb[2] == 1 && d[2] == 1;
    size_t run;
    int32_t i, j, q, n[3];
    memcpy(n, w + ADD_N, sizeof n);
    if (p->rows > 0)
        n[0] = rows;
    run = (size_t)n[2];
    if (plain && sa[1] == n[2] && sb[1] == n[2] && d[1] == n[2]) { /* what lies side by side */
        run *= (size_t)n[1];
        n[1] = n[1] > 0;
    }
    for (i = 0; i < n[0]; i++) {
        for (j = 0; j < n[1]; j++) {
            const ptrdiff_t at = w[ADD_A] + (ptrdiff_t)i * sa[0] + (ptrdiff_t)j * sa[1];
            const ptrdiff_t bt = w[ADD_B] + (ptrdiff_t)i * sb[0] + (ptrdiff_t)j * sb[1];
            const ptrdiff_t to = w[ADD_DST] + (ptrdiff_t)i * d[0] + (ptrdiff_t)j * d[1];
            if (p->is_float) {
                const float *a = (const float *)arena + at, *b = (const float *)arena + bt;
                const float lo = as_float(w[ADD_LO]), hi = as_float(w[ADD_HI]);
                float *y = (float *)arena + to;
                for (q = 0; q < n[2]; q++) {
                    float v = a[(ptrdiff_t)q * sa[2]] + b[(ptrdiff_t)q * sb[2]];
                    v = v < lo ? lo : v;
                    y[(ptrdiff_t)q * d[2]] = v > hi ? hi : v;
                }
            } else {
                const int16_t *a = (const int16_t *)arena + at, *b = (const int16_t *)arena + bt;
                int16_t *y = (int16_t *)arena + to;
                if (plain) {
                    k->add(a, b, y, run, w[ADD_LO], w[ADD_HI]);
                    continue;
                }
                for (q = 0; q < n[2]; q++) {
                    int64_t v = (int64_t)a[(ptrdiff_t)q * sa[2]] * left_a +
                        (int64_t)b[(ptrdiff_t)q * sb[2]] * left_b;
                    v = (v + (round + ((v >> shift) & odd))) >> shift;
                    v = v < w[ADD_LO] ? w[ADD_LO] : v;
                    y[(ptrdiff_t)q * d[2]] = (int16_t)(v > w[ADD_HI] ? w[ADD_HI] : v);
                }
            }
        }
    }
}

static int run_once(
    const eae_program *p, const eae_kernels *k, int32_t rows, const float *in, float *out,
    char *arena)
{
    const int32_t *w = p->words + EAE_PROGRAM_HEADER;
    const size_t item = p->is_float ? sizeof(float) : sizeof(int16_t);
    int32_t i, n[EAE_MAX_DIMS];
    int bad = 0;
    for (i = 0; i < p->n_steps; i++, w += w[1]) {
        switch (w[0]) {
        case EAE_STEP_INPUT:
            bad |= run_input(p, k, w, rows, in, arena);
            break;
        case EAE_STEP_OUTPUT:
            run_output(p, k, w, rows, out, arena);
            break;
        case EAE_STEP_COPY:
            memcpy(n, w + COPY_N, sizeof n);
            if (p->rows > 0)
                n[0] = rows;
            run_copy(
                w, n, item, 0, arena + (size_t)w[COPY_SRC] * item,
                arena + (size_t)w[COPY_DST] * item);
            break;
        case EAE_STEP_ZERO: {
            int32_t q;
            for (q = 0; q < w[ZERO_N]; q++)
                memset(
                    arena + ((size_t)w[ZERO_DST] + (size_t)q * (size_t)w[ZERO_STRIDE]) * item, 0,
                    (size_t)w[ZERO_LENGTH] * item);
            break;
        }
        case EAE_STEP_CONV: {
            eae_conv c;
            read_conv(p, w, &c);
            if (p->rows > 0)
                c.n_w = rows;
            if (p->is_float)
                k->conv_float(
                    &c, (const float *)arena + w[CONV_SRC], (float *)arena + w[CONV_DST]);
            else
                (c.weight_bytes == 1 ? k->conv8 : k->conv16)(
                    &c, (const int16_t *)arena + w[CONV_SRC],
                    arena + (size_t)w[CONV_DST] * (c.wide ? sizeof(int32_t) : sizeof(int16_t)));
            break;
        }
        default:
            run_add(p, k, w, rows, arena);
        }
    }
    return bad;
}

int eae_program_run(
    const eae_program *program, int clone, const float *in, float *out, size_t n, void *arena)
{
    const char *names[EAE_MAX_CLONES];
    const eae_kernels *sets[EAE_MAX_CLONES];
    const int count = list_clones(names, sets);
    const eae_kernels *k = sets[clone >= 0 && clone < count ? clone : count - 1];
    const size_t at_once = program->rows > 0 ? (size_t)program->rows : 1;
    size_t done;
    int bad = 0;
    for (done = 0; done < n; done += at_once) {
        const size_t rows = n - done < at_once ? n - done : at_once;
        bad |= run_once(
            program, k, (int32_t)rows, in + done * (size_t)program->n_in,
            out + done * (size_t)program->n_out, arena);
    }
    return bad;
}
