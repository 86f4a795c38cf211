/* The kernels of net.c for one instruction set; net.c includes this once per set.
 *
 * Before: NAME(x) makes a function's name of it, TARGET is its attribute; LANES int32 sums make a
 * `vec`, 2 * LANES int16 numbers a `weights`, LANES float32 an `fvec`; TILE positions times TILE_BLOCKS blocks are summed at once, and
 * ROW_BLOCKS blocks where there is one position. All are undefined again at the end.
 *
 *     DOT(acc, x, w)     acc + x0 * w0 + x1 * w1 in every lane, exact
 *     LOAD8, LOAD16      2 * LANES weights as pairs
 *     PAIR(p)            int16 p[0], p[1] in every lane
 *     SUMS(p), STORE     int32 memory, to a fresh accumulator and from a finished one
 */

#define PER_BLOCK (EAE_BLOCK / LANES)

/* ---- int16 ---- */

#if LANES == EAE_BLOCK

/* Requantizes one block of P positions in registers. */
TARGET INLINE void NAME(finish)(
    const eae_conv *c, const vec *const *acc, int block, char *dst, const size_t *at, const int P)
{
    const vec round = SUMS(c->round + block * EAE_BLOCK), odd = SUMS(c->odd + block * EAE_BLOCK);
    const vec shift = SUMS(c->shift + block * EAE_BLOCK);
    const vec lo = _mm512_set1_epi32(c->lo), hi = _mm512_set1_epi32(c->hi);
    const __mmask16 kept = (__mmask16)(0xFFFFu >> (EAE_BLOCK - c->block[2 * block + 1]));
    const size_t start = (size_t)c->block[2 * block];
    int p;
    UNROLL for (p = 0; p < P; p++) {
        const vec s = *acc[p];
        vec y = _mm512_and_si512(_mm512_srav_epi32(s, shift), odd);
        y = _mm512_srav_epi32(_mm512_add_epi32(s, _mm512_add_epi32(round, y)), shift);
        y = _mm512_min_epi32(_mm512_max_epi32(y, lo), hi);
        if (c->wide)
            _mm512_mask_storeu_epi32((int32_t *)dst + start + at[p], kept, y);
        else
            _mm256_mask_storeu_epi16(
                (int16_t *)dst + start + at[p], kept, _mm512_cvtepi32_epi16(y));
    }
}

#else

TARGET NOINLINE static void NAME(finish)(
    const eae_conv *c, int32_t *restrict sums, int block, char *dst, size_t at)
{
    const int32_t *round = c->round + block * EAE_BLOCK, *odd = c->odd + block * EAE_BLOCK;
    const int32_t *shift = c->shift + block * EAE_BLOCK;
    int32_t n = c->block[2 * block + 1], lo = c->lo, hi = c->hi;
    int l;
    at += (size_t)c->block[2 * block];
    for (l = 0; l < EAE_BLOCK; l++) {
        int32_t s = sums[l];
        s = (s + (round[l] + ((s >> shift[l]) & odd[l]))) >> shift[l];
        s = s < lo ? lo : s;
        sums[l] = s > hi ? hi : s;
    }
    if (c->wide) {
        memcpy((int32_t *)dst + at, sums, (size_t)n * sizeof(int32_t));
    } else {
        int16_t small[EAE_BLOCK];
        for (l = 0; l < EAE_BLOCK; l++)
            small[l] = (int16_t)sums[l];
        if (n == EAE_BLOCK)
            memcpy((int16_t *)dst + at, small, sizeof small);
        else if (n == EAE_BLOCK / 2)
            memcpy((int16_t *)dst + at, small, sizeof small / 2);
        else
            for (l = 0; l < n; l++)
                ((int16_t *)dst)[at + (size_t)l] = small[l];
    }
}

#endif

/* P positions, V vectors from `block` on. */
TARGET INLINE void NAME(tile)(
    const eae_conv *c, const int16_t *const *x, const size_t *at, char *dst, int block,
    const int P, const int V, const int narrow)
{
    const size_t pairs = (size_t)c->n_length, run = pairs * 2 * EAE_BLOCK;
    const size_t stride = run * (size_t)c->n_segments; /* weights of one block */
    const size_t first = stride * (size_t)block;
    vec acc[TILE][8];
    int p, v, s;
#if LANES != EAE_BLOCK
    ALIGN64 int32_t sums[EAE_BLOCK];
    int l;
#endif
    UNROLL for (v = 0; v < V; v++) {
        UNROLL for (p = 0; p < P; p++) acc[p][v] = SUMS(c->bias + block * EAE_BLOCK + v * LANES);
    }
    for (s = 0; s < c->n_segments; s++) {
        const ptrdiff_t offset = c->segment[s];
        const int8_t *w8 = (const int8_t *)c->weight + first + run * (size_t)s;
        const int16_t *w16 = (const int16_t *)c->weight + first + run * (size_t)s;
        size_t k;
        for (k = 0; k < pairs; k++) {
            weights w[8];
            UNROLL for (v = 0; v < V; v++) {
                const size_t i = (size_t)(v / PER_BLOCK) * stride + k * 2 * EAE_BLOCK +
                    (size_t)(v % PER_BLOCK) * 2 * LANES;
                if (narrow)
                    w[v] = LOAD8(w8 + i);
                else
                    w[v] = LOAD16(w16 + i);
            }
            UNROLL for (p = 0; p < P; p++) {
                const weights pair = PAIR(x[p] + offset + 2 * k);
                UNROLL for (v = 0; v < V; v++) acc[p][v] = DOT(acc[p][v], pair, w[v]);
            }
        }
    }
#if LANES == EAE_BLOCK
    UNROLL for (v = 0; v < V; v++) {
        const vec *one[TILE];
        UNROLL for (p = 0; p < P; p++) one[p] = &acc[p][v];
        NAME(finish)(c, one, block + v, dst, at, P);
    }
#else
    UNROLL for (p = 0; p < P; p++) {
        UNROLL for (v = 0; v < V; v++) {
            STORE(sums + (v % PER_BLOCK) * LANES, acc[p][v]);
            if (v % PER_BLOCK == PER_BLOCK - 1 || v == V - 1) {
                for (l = (v % PER_BLOCK + 1) * LANES; l < EAE_BLOCK; l++)
                    sums[l] = 0;
                NAME(finish)(c, sums, block + v / PER_BLOCK, dst, at[p]);
            }
        }
    }
#endif
}

/* All positions of V vectors. */
TARGET INLINE void NAME(walk)(
    const eae_conv *c, const int16_t *src, char *dst, int block, const int V, const int narrow)
{
    size_t left = (size_t)c->n_h * (size_t)c->n_w, at[TILE];
    const int16_t *x[TILE];
    int32_t h = 0, w = 0;
    while (left > 0) {
        int p, n = left >= TILE ? TILE : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (p = 0; p < n; p++) {
            x[p] = src + (ptrdiff_t)h * c->src_h + (ptrdiff_t)w * c->src_w;
            at[p] = (size_t)h * (size_t)c->dst_h + (size_t)w * (size_t)c->dst_w;
            if (++w == c->n_w) {
                w = 0;
                h++;
            }
        }
        if (n == TILE)
            NAME(tile)(c, x, at, dst, block, TILE, V, narrow);
        else if (n == 4)
            NAME(tile)(c, x, at, dst, block, TILE < 4 ? TILE : 4, V, narrow);
        else if (n == 2)
            NAME(tile)(c, x, at, dst, block, 2, V, narrow);
        else
            NAME(tile)(c, x, at, dst, block, 1, V, narrow);
        left -= (size_t)n;
    }
}

TARGET INLINE void NAME(blocks)(const eae_conv *c, const int16_t *src, char *dst, const int narrow)
{
    static const size_t zero[1] = {0};
    const int32_t n = c->n_blocks;
    int32_t b = 0;
    if (c->n_h * c->n_w == 1) {
        for (; b + ROW_BLOCKS <= n; b += ROW_BLOCKS)
            NAME(tile)(c, &src, zero, dst, b, 1, ROW_BLOCKS * PER_BLOCK, narrow);
        for (; b < n; b++)
            NAME(tile)(c, &src, zero, dst, b, 1, PER_BLOCK, narrow);
        return;
    }
#if TILE_BLOCKS == 3
    for (; n - b == 3 || n - b > 4; b += 3)
        NAME(walk)(c, src, dst, b, 3 * PER_BLOCK, narrow);
    for (; n - b >= 2; b += 2)
        NAME(walk)(c, src, dst, b, 2 * PER_BLOCK, narrow);
#endif
    for (; b < n; b++) {
#if LANES == 8
        if (c->block[2 * b + 1] <= LANES) {
            NAME(walk)(c, src, dst, b, 1, narrow);
            continue;
        }
#endif
        NAME(walk)(c, src, dst, b, PER_BLOCK, narrow);
    }
}

TARGET static void NAME(conv8)(const eae_conv *c, const int16_t *src, char *dst)
{
    NAME(blocks)(c, src, dst, 1);
}

TARGET static void NAME(conv16)(const eae_conv *c, const int16_t *src, char *dst)
{
    NAME(blocks)(c, src, dst, 0);
}

/* ---- float32 ---- */

TARGET NOINLINE static void NAME(finish_float)(
    const eae_conv *c, float *restrict sums, int block, float *dst, size_t at)
{
    const int32_t n = c->block[2 * block + 1];
    const float lo = c->float_lo, hi = c->float_hi;
    int l;
    at += (size_t)c->block[2 * block];
    for (l = 0; l < EAE_BLOCK; l++) {
        sums[l] = sums[l] < lo ? lo : sums[l];
        sums[l] = sums[l] > hi ? hi : sums[l];
    }
    if (n == EAE_BLOCK)
        memcpy(dst + at, sums, EAE_BLOCK * sizeof(float));
    else
        for (l = 0; l < n; l++)
            dst[at + (size_t)l] = sums[l];
}

TARGET INLINE void NAME(tile_float)(
    const eae_conv *c, const float *const *x, const size_t *at, float *dst, int block,
    const int P, const int V)
{
    const size_t length = (size_t)c->n_length, run = length * EAE_BLOCK;
    const size_t stride = run * (size_t)c->n_segments;
    ALIGN64 float sums[EAE_BLOCK];
    fvec acc[TILE][8];
    int p, v, s;
    UNROLL for (v = 0; v < V; v++) {
        UNROLL for (p = 0; p < P; p++)
            acc[p][v] = LOADF((const float *)c->bias + block * EAE_BLOCK + v * LANES);
    }
    for (s = 0; s < c->n_segments; s++) {
        const ptrdiff_t offset = c->segment[s];
        const float *weight =
            (const float *)c->weight + stride * (size_t)block + run * (size_t)s;
        size_t k;
        for (k = 0; k < length; k++) {
            fvec w[8];
            UNROLL for (v = 0; v < V; v++)
                w[v] = LOADF(
                    weight + (size_t)(v / PER_BLOCK) * stride + k * EAE_BLOCK +
                    (size_t)(v % PER_BLOCK) * LANES);
            UNROLL for (p = 0; p < P; p++) {
                const fvec one = ONEF(x[p] + offset + k);
                UNROLL for (v = 0; v < V; v++) acc[p][v] = MADF(acc[p][v], one, w[v]);
            }
        }
    }
    UNROLL for (p = 0; p < P; p++) {
        UNROLL for (v = 0; v < V; v++) {
            STOREF(sums + (v % PER_BLOCK) * LANES, acc[p][v]);
            if (v % PER_BLOCK == PER_BLOCK - 1)
                NAME(finish_float)(c, sums, block + v / PER_BLOCK, dst, at[p]);
        }
    }
}

TARGET INLINE void NAME(walk_float)(
    const eae_conv *c, const float *src, float *dst, int block, const int V)
{
    size_t left = (size_t)c->n_h * (size_t)c->n_w, at[TILE];
    const float *x[TILE];
    int32_t h = 0, w = 0;
    while (left > 0) {
        int p, n = left >= TILE ? TILE : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (p = 0; p < n; p++) {
            x[p] = src + (ptrdiff_t)h * c->src_h + (ptrdiff_t)w * c->src_w;
            at[p] = (size_t)h * (size_t)c->dst_h + (size_t)w * (size_t)c->dst_w;
            if (++w == c->n_w) {
                w = 0;
                h++;
            }
        }
        if (n == TILE)
            NAME(tile_float)(c, x, at, dst, block, TILE, V);
        else if (n == 4)
            NAME(tile_float)(c, x, at, dst, block, TILE < 4 ? TILE : 4, V);
        else if (n == 2)
            NAME(tile_float)(c, x, at, dst, block, 2, V);
        else
            NAME(tile_float)(c, x, at, dst, block, 1, V);
        left -= (size_t)n;
    }
}

TARGET static void NAME(conv_float)(const eae_conv *c, const float *src, float *dst)
{
    static const size_t zero[1] = {0};
    const int32_t n = c->n_blocks;
    int32_t b = 0;
    if (c->n_h * c->n_w == 1) {
        for (; b + ROW_BLOCKS <= n; b += ROW_BLOCKS)
            NAME(tile_float)(c, &src, zero, dst, b, 1, ROW_BLOCKS * PER_BLOCK);
        for (; b < n; b++)
            NAME(tile_float)(c, &src, zero, dst, b, 1, PER_BLOCK);
        return;
    }
#if TILE_BLOCKS == 3
    for (; n - b == 3 || n - b > 4; b += 3)
        NAME(walk_float)(c, src, dst, b, 3 * PER_BLOCK);
    for (; n - b >= 2; b += 2)
        NAME(walk_float)(c, src, dst, b, 2 * PER_BLOCK);
#endif
    for (; b < n; b++)
        NAME(walk_float)(c, src, dst, b, PER_BLOCK);
}

/* ---- in and out ---- */

/* n numbers: (v - sub) * mul, rounded half to even, clipped. NaN gives lo. */
TARGET static int NAME(input)(
    const float *restrict src, int16_t *restrict dst, size_t n, const float *sub,
    const float *mul, float lo, float hi)
{
    size_t i;
    const float s = *sub, m = *mul;
    int bad = 0;
    for (i = 0; i < n; i++) {
        const float v = (src[i] - s) * m;
        float y = v > lo ? v : lo;
        y = y < hi ? y : hi;
        y = ROUND(y);
        bad |= !(y == v);
        dst[i] = (int16_t)y;
    }
    return bad;
}

TARGET static void NAME(output)(
    const int16_t *restrict src, float *restrict dst, size_t n, float scale, float offset)
{
    size_t i;
    for (i = 0; i < n; i++)
        dst[i] = (float)src[i] * scale + offset;
}

/* n sums, clipped. The result may lie where a source lies. */
TARGET static void NAME(add)(
    const int16_t *a, const int16_t *b, int16_t *dst, size_t n, int32_t lo, int32_t hi)
{
    size_t i;
    for (i = 0; i < n; i++) {
        int32_t v = (int32_t)a[i] + b[i];
        v = v < lo ? lo : v;
        dst[i] = (int16_t)(v > hi ? hi : v);
    }
}

static const eae_kernels NAME(kernels) = {
    NAME(conv8), NAME(conv16), NAME(conv_float), NAME(input), NAME(output), NAME(add),
};

#undef NAME
#undef TARGET
#undef LANES
#undef PER_BLOCK
#undef TILE
#undef TILE_BLOCKS
#undef ROW_BLOCKS
#undef vec
#undef fvec
#undef weights
#undef DOT
#undef LOAD8
#undef LOAD16
#undef PAIR
#undef SUMS
#undef STORE
#undef LOADF
#undef STOREF
#undef ONEF
#undef MADF
