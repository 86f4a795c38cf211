/* edgeae.native._core: the C kernels behind Python's buffers.
 *
 * One .c and .h per subject hold the kernels and know no Python; this file checks lengths, brings
 * memory and lets go of the interpreter's lock while a kernel works. Arrays go in as buffers of the
 * item type that the comment names. Damaged payloads give None; wrong arguments raise ValueError.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include "causal.h"
#include "cdf.h"
#include "classical.h"
#include "net.h"
#include "cells.h"
#include "levels.h"
#include "pixel.h"
#include "prior.h"
#include "recall.h"
#include "shapes.h"

/* ---- buffers ---- */

/* The item count of a buffer; -1 and an exception where it holds no whole, aligned items. */
static Py_ssize_t n_items(const Py_buffer *b, size_t size, const char *name)
{
    if ((size_t)b->len % size != 0 || ((uintptr_t)b->buf % size != 0 && b->len > 0)) {
        PyErr_Format(PyExc_ValueError, "%s: needs aligned items of %zu bytes", name, size);
        return -1;
    }
    return b->len / (Py_ssize_t)size;
}

static int has_items(const Py_buffer *b, size_t size, Py_ssize_t expected, const char *name)
{
    Py_ssize_t n = n_items(b, size, name);
    if (n < 0)
        return 0;
    if (n != expected) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zd items, found %zd", name, expected, n);
        return 0;
    }
    return 1;
}

static int is_shape(const Py_buffer *b)
{
    return has_items(b, sizeof(uint16_t), EAE_SHAPE_POINTS, "shape");
}

/* A bytes object of n bytes from a PyMem_RawMalloc buffer, which is released. */
static PyObject *take_bytes(uint8_t *buf, size_t n)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)buf, (Py_ssize_t)n);
    PyMem_RawFree(buf);
    return bytes;
}

/* ---- tables ---- */

static int check_family(const Py_buffer *shape, long delta, int shift)
{
    if (!is_shape(shape))
        return 0;
    if (delta < 1 || delta > EAE_MAX_DELTA || shift < 0 || shift > EAE_MAX_SHIFT) {
        PyErr_SetString(PyExc_ValueError, "delta or shift out of range");
        return 0;
    }
    return 1;
}

static int check_scales(const Py_buffer *ls, Py_ssize_t n)
{
    Py_ssize_t i;
    for (i = 0; i < n; i++) {
        if (((const uint8_t *)ls->buf)[i] >= EAE_N_SCALES) {
            PyErr_SetString(PyExc_ValueError, "scale index out of range");
            return 0;
        }
    }
    return 1;
}

/* cdf_encode(shape u16[385], delta, shift, ls u8[n], frac16 i8[n], k i32[n]) -> bytes */
static PyObject *py_cdf_encode(PyObject *self, PyObject *args)
{
    Py_buffer shape, ls, frac, k;
    long delta;
    int shift;
    PyObject *result = NULL;
    Py_ssize_t n;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*liy*y*y*", &shape, &delta, &shift, &ls, &frac, &k))
        return NULL;
    n = ls.len;
    if (check_family(&shape, delta, shift) && has_items(&frac, 1, n, "frac16") &&
        has_items(&k, sizeof(int32_t), n, "k") && check_scales(&ls, n)) {
        size_t cap = 16 * (size_t)n + 8; /* symbol 2, escape 2 * 29 bits, low bits 3 */
        uint8_t *out = PyMem_RawMalloc(cap);
        if (out == NULL) {
            PyErr_NoMemory();
        } else {
            size_t len;
            Py_BEGIN_ALLOW_THREADS
            eae_family family;
            eae_encoder e;
            Py_ssize_t i;
            eae_family_init(&family, shape.buf, (int32_t)delta, shift);
            eae_enc_init(&e, out, cap);
            for (i = 0; i < n; i++)
                eae_cdf_encode(
                    &family, &e, ((const uint8_t *)ls.buf)[i], ((const int8_t *)frac.buf)[i],
                    ((const int32_t *)k.buf)[i]);
            len = eae_enc_finish(&e);
            Py_END_ALLOW_THREADS
            result = take_bytes(out, len);
        }
    }
    PyBuffer_Release(&shape);
    PyBuffer_Release(&ls);
    PyBuffer_Release(&frac);
    PyBuffer_Release(&k);
    return result;
}

/* cdf_decode(payload, shape u16[385], delta, shift, ls u8[n], frac16 i8[n], k i64[n] out) -> bool:
 * True where the payload is good and used up */
static PyObject *py_cdf_decode(PyObject *self, PyObject *args)
{
    Py_buffer payload, shape, ls, frac, k;
    long delta;
    int shift;
    PyObject *result = NULL;
    Py_ssize_t n;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*y*liy*y*w*", &payload, &shape, &delta, &shift, &ls, &frac, &k))
        return NULL;
    n = ls.len;
    if (check_family(&shape, delta, shift) && has_items(&frac, 1, n, "frac16") &&
        has_items(&k, sizeof(int64_t), n, "k") && check_scales(&ls, n)) {
        int good;
        Py_BEGIN_ALLOW_THREADS
        eae_family family;
        eae_decoder d;
        Py_ssize_t i;
        eae_family_init(&family, shape.buf, (int32_t)delta, shift);
        eae_dec_init(&d, payload.buf, (size_t)payload.len);
        for (i = 0; i < n && !d.bad; i++)
            ((int64_t *)k.buf)[i] = eae_cdf_decode(
                &family, &d, ((const uint8_t *)ls.buf)[i], ((const int8_t *)frac.buf)[i]);
        good = eae_dec_finish(&d);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(good);
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&shape);
    PyBuffer_Release(&ls);
    PyBuffer_Release(&frac);
    PyBuffer_Release(&k);
    return result;
}

/* known_shapes() -> (logistic, laplace), bytes of u16[385] each */
static PyObject *py_known_shapes(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue(
        "y#y#", (const char *)eae_shape_logistic, (Py_ssize_t)sizeof eae_shape_logistic,
        (const char *)eae_shape_laplace, (Py_ssize_t)sizeof eae_shape_laplace);
}

/* ---- priors ---- */

/* The arguments that both directions share, checked and brought into the kernels' form. */
typedef struct {
    Py_buffer words, statics, shape, center, shift, cond, gain, weight, delta, code; /* buf NULL: not given */
    Py_buffer learnt, level, trust;
    Py_ssize_t groups, steps;
    eae_prior prior;
    eae_family *family; /* one per channel */
    eae_net net;
    void *arena;
    eae_adaptive adaptive;
    eae_mixing mixing;
    eae_net mixture_net;
    void *mixture_arena;
    eae_adapter adapter;
    void *filter_arena;
    size_t n_items;
} prior_call;

static void release_prior(prior_call *p)
{
    Py_buffer *buffers[] = {&p->words,  &p->statics, &p->shape, &p->center,
                            &p->shift, &p->cond,    &p->gain,  &p->weight, &p->delta, &p->code,
                            &p->learnt, &p->level,   &p->trust};
    size_t i;
    for (i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (buffers[i]->obj != NULL)
            PyBuffer_Release(buffers[i]);
    }
    PyMem_RawFree(p->family);
    PyMem_RawFree(p->arena);
    PyMem_RawFree(p->filter_arena);
    PyMem_RawFree(p->mixture_arena);
}

static int get_buffer(PyObject *object, Py_buffer *buffer)
{
    return object == Py_None || PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) == 0;
}

/* Lays out the net that the words are, in an arena of its own. */
static int lay_net(Py_buffer *words, eae_net *net, void **arena)
{
    Py_ssize_t n = n_items(words, sizeof(int32_t), "words");
    size_t size;
    if (n < 0)
        return 0;
    size = eae_net_size(words->buf, (size_t)n);
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "words: not a causal net");
        return 0;
    }
    *arena = PyMem_RawMalloc(size);
    if (*arena == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    eae_net_init(net, words->buf, (size_t)n, *arena);
    return 1;
}

/* options: (words i32[] | None, statics i32[2 * channels] | None, shape u16[385], channels,
 * by_delta, center i32[channels], shift i32[channels], lookahead, cond i32[],
 * None | (taps, cross, forget, gain f64[channels], weight i32[channels * parts],
 *         None | (words i32[], history, level i32[channels], trust i32[channels])));
 * delta i32[channels] */
static int parse_prior(prior_call *p, PyObject *options, PyObject *delta, PyObject *code)
{
    PyObject *words, *statics, *shape, *center, *shift, *cond, *adaptive, *gain, *weight;
    PyObject *learnt, *net, *level, *trust;
    Py_ssize_t n;
    eae_prior *a = &p->prior;
    int32_t c;
    if (!PyArg_ParseTuple(
            options, "OOOiiOOiOO", &words, &statics, &shape, &a->n_channels, &a->by_delta,
            &center, &shift, &a->lookahead, &cond, &adaptive))
        return 0;
    if (!get_buffer(words, &p->words) || !get_buffer(statics, &p->statics) ||
        !get_buffer(shape, &p->shape) || !get_buffer(center, &p->center) ||
        !get_buffer(shift, &p->shift) || !get_buffer(cond, &p->cond) ||
        !get_buffer(delta, &p->delta) || !get_buffer(code, &p->code))
        return 0;
    if (a->n_channels < 1 || a->n_channels > EAE_MAX_WIDTH / 2 || p->groups < 0 || p->steps < 0 ||
        (p->steps > 0 && p->groups > PY_SSIZE_T_MAX / 64 / a->n_channels / p->steps)) {
        PyErr_SetString(PyExc_ValueError, "the shape of the samples is out of range");
        return 0;
    }
    p->n_items = (size_t)p->groups * (size_t)p->steps * (size_t)a->n_channels;
    n = n_items(&p->cond, sizeof(int32_t), "cond");
    if (n < 0 || !has_items(&p->center, sizeof(int32_t), a->n_channels, "center") ||
        !has_items(&p->shift, sizeof(int32_t), a->n_channels, "shift") ||
        !has_items(&p->delta, sizeof(int32_t), a->n_channels, "delta"))
        return 0;
    a->center = p->center.buf;
    a->shift = p->shift.buf;
    a->cond = p->cond.buf;
    a->n_cond = n < EAE_MAX_WIDTH ? (int32_t)n : EAE_MAX_WIDTH + 1;
    for (c = 0; c < a->n_channels; c++) {
        if (!check_family(&p->shape, ((const int32_t *)p->delta.buf)[c], a->shift[c]))
            return 0;
    }
    if (p->statics.obj != NULL) {
        if (!has_items(&p->statics, sizeof(int32_t), 2 * (Py_ssize_t)a->n_channels, "statics"))
            return 0;
        a->statics = p->statics.buf;
    }
    if (p->code.obj != NULL &&
        !has_items(&p->code, sizeof(int32_t), (Py_ssize_t)p->n_items, "code"))
        return 0;
    if (p->words.obj != NULL) {
        if (!lay_net(&p->words, &p->net, &p->arena))
            return 0;
    }
    if (adaptive != Py_None) {
        if (!PyArg_ParseTuple(
                adaptive, "iidOOO", &p->adaptive.taps, &p->adaptive.cross, &p->adaptive.forget,
                &gain, &weight, &learnt) ||
            !get_buffer(gain, &p->gain) || !get_buffer(weight, &p->weight) ||
            !has_items(&p->gain, sizeof(double), a->n_channels, "gain") ||
            !has_items(
                &p->weight, sizeof(int32_t), EAE_PARTS * (Py_ssize_t)a->n_channels, "weight"))
            return 0;
        p->adaptive.gain = p->gain.buf;
        p->mixing.weight = p->weight.buf;
        if (learnt != Py_None) {
            if (!PyArg_ParseTuple(learnt, "OiOO", &net, &p->mixing.history, &level, &trust) ||
                !get_buffer(net, &p->learnt) || !get_buffer(level, &p->level) ||
                !get_buffer(trust, &p->trust) ||
                !has_items(&p->level, sizeof(int32_t), a->n_channels, "level") ||
                !has_items(&p->trust, sizeof(int32_t), a->n_channels, "trust") ||
                !lay_net(&p->learnt, &p->mixture_net, &p->mixture_arena))
                return 0;
            p->mixing.learnt = &p->mixture_net;
            p->mixing.level = p->level.buf;
            p->mixing.trust = p->trust.buf;
        }
        a->adaptive = &p->adaptive;
        a->mixing = &p->mixing;
    }
    if (!eae_prior_fits(a, p->arena != NULL ? &p->net : NULL, p->code.obj != NULL)) {
        PyErr_SetString(PyExc_ValueError, "the net and the prior's options do not fit");
        return 0;
    }
    if (a->adaptive != NULL) {
        p->filter_arena = PyMem_RawMalloc(eae_filters_size(a->adaptive, a->n_channels));
        if (p->filter_arena == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        eae_filters_init(&p->adapter.filters, a->adaptive, a->n_channels, p->filter_arena);
    }
    p->family = PyMem_RawMalloc((size_t)a->n_channels * sizeof *p->family);
    if (p->family == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    for (c = 0; c < a->n_channels; c++)
        eae_family_init(
            p->family + c, p->shape.buf, ((const int32_t *)p->delta.buf)[c], a->shift[c]);
    return 1;
}

static int is_pace(const Py_buffer *b, const char *name)
{
    return b->buf == NULL || has_items(b, sizeof(int64_t), EAE_MARKS, name);
}

static int start_pace(eae_paced *paced, const Py_buffer *pace, const Py_buffer *marks)
{
    paced->pace = pace->buf;
    paced->marks = marks->buf;
    return is_pace(pace, "pace") && is_pace(marks, "marks");
}

/* prior_encode(options, delta i32[channels], x i32[groups * steps * channels], code like x | None, groups, steps,
 * recon like x, out, limit = -1, pace i64[9] = None, marks i64[9] out = None) -> bytes, or None where a
 * sample is out of range, the bytes would be more than limit, if that is not negative, or fall behind
 * the pace */
static PyObject *py_prior_encode(PyObject *self, PyObject *args)
{
    prior_call *p;
    PyObject *options, *delta, *code, *noted = Py_None, *result = NULL;
    Py_buffer x, recon, pace = {0}, marks = {0};
    Py_ssize_t groups, steps, limit = -1;
    eae_paced paced;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "O!Oy*Onnw*|nz*O", &PyTuple_Type, &options, &delta, &x, &code, &groups, &steps,
            &recon, &limit, &pace, &noted))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (noted != Py_None && PyObject_GetBuffer(noted, &marks, PyBUF_WRITABLE) < 0)
        goto done;
    p->groups = groups;
    p->steps = steps;
    if (parse_prior(p, options, delta, code) &&
        has_items(&x, sizeof(int32_t), (Py_ssize_t)p->n_items, "x") &&
        has_items(&recon, sizeof(int32_t), (Py_ssize_t)p->n_items, "recon") &&
        start_pace(&paced, &pace, &marks)) {
        eae_net *net = p->arena != NULL ? &p->net : NULL;
        size_t head = 5 * (size_t)p->prior.n_channels + 16;
        size_t cap = head + 3 * p->n_items, len = EAE_OVERFLOW;
        uint8_t *out = NULL;
        int attempt, is_last = 0;
        for (attempt = 0; attempt < 2 && len == EAE_OVERFLOW && !is_last; attempt++) {
            if (limit >= 0 && (size_t)limit + 4 <= cap) { /* the end takes 4 bytes for a while */
                cap = (size_t)limit + 4;
                is_last = 1;
            }
            PyMem_RawFree(out);
            out = PyMem_RawMalloc(cap);
            if (out == NULL) {
                PyErr_NoMemory();
                goto done;
            }
            Py_BEGIN_ALLOW_THREADS
            len = eae_prior_encode(
                &p->prior, net, &p->adapter, p->family, p->delta.buf, x.buf, p->code.buf,
                (size_t)p->groups, (size_t)p->steps, recon.buf, out, cap, &paced);
            Py_END_ALLOW_THREADS
            cap = head + 16 * p->n_items; /* no sample takes more */
        }
        if (len == EAE_UNCODABLE || len == EAE_OVERFLOW || len == EAE_BEHIND ||
            (limit >= 0 && len > (size_t)limit)) {
            PyMem_RawFree(out);
            Py_INCREF(Py_None);
            result = Py_None;
        } else {
            result = take_bytes(out, len);
        }
    }
done:
    if (p != NULL)
        release_prior(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&x);
    PyBuffer_Release(&recon);
    PyBuffer_Release(&pace);
    PyBuffer_Release(&marks);
    return result;
}

/* prior_decode(options, delta i32[channels], payload, code i32[groups * steps * channels] | None, groups, steps,
 * recon i32, out) -> bool: False where the payload is damaged */
static PyObject *py_prior_decode(PyObject *self, PyObject *args)
{
    prior_call *p;
    PyObject *options, *delta, *code, *result = NULL;
    Py_buffer payload, recon;
    Py_ssize_t groups, steps;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "O!Oy*Onnw*", &PyTuple_Type, &options, &delta, &payload, &code, &groups, &steps,
            &recon))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    p->groups = groups;
    p->steps = steps;
    if (parse_prior(p, options, delta, code) &&
        has_items(&recon, sizeof(int32_t), (Py_ssize_t)p->n_items, "recon")) {
        int good;
        Py_BEGIN_ALLOW_THREADS
        good = eae_prior_decode(
            &p->prior, p->arena != NULL ? &p->net : NULL, &p->adapter, p->family, p->delta.buf,
            payload.buf,
             (size_t)payload.len, p->code.buf, (size_t)p->groups, (size_t)p->steps,
            recon.buf);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(good);
    }
done:
    if (p != NULL)
        release_prior(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&payload);
    PyBuffer_Release(&recon);
    return result;
}

/* ---- pixel priors ---- */

/* The arguments that both directions share, checked and brought into the kernels' form. */
typedef struct {
    Py_buffer words, table, place, inside, flag, weight, bin, back; /* obj NULL: not taken yet */
    eae_pixel prior;
    eae_net net;
    void *arena;
    Py_ssize_t groups, n_levels; /* n_levels: of one group */
} pixel_call;

static void release_pixel(pixel_call *p)
{
    Py_buffer *buffers[] = {&p->words, &p->table,  &p->place, &p->inside,
                            &p->flag,  &p->weight, &p->bin,   &p->back};
    size_t i;
    for (i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (buffers[i]->obj != NULL)
            PyBuffer_Release(buffers[i]);
    }
    PyMem_RawFree(p->arena);
}

/* options: (words i32[], table i16[levels * embed], place i16[steps * places], inside u8[steps],
 * flag u16[513], weight u16[256], bin u8[levels], back u8[bins], levels, ground, embed, places,
 * cond) */
static int parse_pixel(pixel_call *p, PyObject *options, Py_ssize_t groups)
{
    PyObject *words, *table, *place, *inside, *flag, *weight, *bin, *back;
    eae_pixel *a = &p->prior;
    Py_ssize_t n, k;
    size_t size;
    if (!PyArg_ParseTuple(
            options, "OOOOOOOOiiiii", &words, &table, &place, &inside, &flag, &weight, &bin, &back,
            &a->levels, &a->ground, &a->n_embed, &a->n_place, &a->cond))
        return 0;
    if (!get_buffer(words, &p->words) || !get_buffer(table, &p->table) ||
        !get_buffer(place, &p->place) || !get_buffer(inside, &p->inside) ||
        !get_buffer(flag, &p->flag) || !get_buffer(weight, &p->weight) ||
        !get_buffer(bin, &p->bin) || !get_buffer(back, &p->back))
        return 0;
    if (a->levels < 2 || a->levels > EAE_MAX_LEVELS || a->n_embed < 1 || a->n_place < 0 ||
        a->n_embed > EAE_MAX_WIDTH || a->n_place > EAE_MAX_WIDTH || groups < 0) {
        PyErr_SetString(PyExc_ValueError, "a pixel prior's sizes are out of range");
        return 0;
    }
    n = p->inside.len;
    a->n_steps = (size_t)n;
    a->n_bins = p->back.len <= EAE_MAX_LEVELS ? (int32_t)p->back.len : 0;
    if (!has_items(&p->table, sizeof(int16_t), (Py_ssize_t)a->levels * a->n_embed, "table") ||
        !has_items(&p->place, sizeof(int16_t), n * a->n_place, "place") ||
        !has_items(&p->flag, sizeof(uint16_t), 2 * EAE_MAX_LOGIT + 1, "flag") ||
        !has_items(&p->weight, sizeof(uint16_t), 256, "weight") ||
        !has_items(&p->bin, 1, a->levels, "bin"))
        return 0;
    a->table = p->table.buf;
    a->place = p->place.buf;
    a->inside = p->inside.buf;
    a->flag = p->flag.buf;
    a->weight = p->weight.buf;
    a->bin = p->bin.buf;
    a->back = p->back.buf;
    for (k = 0; k < n; k++)
        p->n_levels += a->inside[k] != 0;
    p->groups = groups;
    if (p->n_levels > 0 && groups > PY_SSIZE_T_MAX / 64 / p->n_levels) {
        PyErr_SetString(PyExc_ValueError, "there are too many images");
        return 0;
    }
    n = n_items(&p->words, sizeof(int32_t), "words");
    if (n < 0)
        return 0;
    size = eae_net_size(p->words.buf, (size_t)n);
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "words: not a causal net");
        return 0;
    }
    p->arena = PyMem_RawMalloc(size);
    if (p->arena == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    eae_net_init(&p->net, p->words.buf, (size_t)n, p->arena);
    if (!eae_pixel_fits(a, &p->net)) {
        PyErr_SetString(PyExc_ValueError, "the net and the pixel prior's options do not fit");
        return 0;
    }
    return 1;
}

/* pixel_encode(options, x u8[groups * levels], groups, recon like x, out, limit) -> bytes, or None
 * where they would be more than limit, if that is not negative */
static PyObject *py_pixel_encode(PyObject *self, PyObject *args)
{
    pixel_call *p;
    PyObject *options, *result = NULL;
    Py_buffer x, recon;
    Py_ssize_t groups, limit, k;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "O!y*nw*n", &PyTuple_Type, &options, &x, &groups, &recon, &limit))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (parse_pixel(p, options, groups) && has_items(&x, 1, groups * p->n_levels, "x") &&
        has_items(&recon, 1, groups * p->n_levels, "recon")) {
        /* a level takes at most two symbols of 16 bits */
        size_t cap = 4 * (size_t)x.len + 16, len;
        uint8_t *out;
        if (limit >= 0 && (size_t)limit + 4 < cap)
            cap = (size_t)limit + 4; /* the end takes 4 bytes for a while */
        for (k = 0; k < x.len; k++) {
            if (((const uint8_t *)x.buf)[k] >= p->prior.levels) {
                PyErr_SetString(PyExc_ValueError, "x: a level is out of range");
                goto done;
            }
        }
        out = PyMem_RawMalloc(cap);
        if (out == NULL) {
            PyErr_NoMemory();
            goto done;
        }
        Py_BEGIN_ALLOW_THREADS
        len = eae_pixel_encode(
            &p->prior, &p->net, x.buf, (size_t)groups, recon.buf, out, cap);
        Py_END_ALLOW_THREADS
        if (len == EAE_OVERFLOW || (limit >= 0 && len > (size_t)limit)) {
            PyMem_RawFree(out);
            Py_INCREF(Py_None);
            result = Py_None;
        } else {
            result = take_bytes(out, len);
        }
    }
done:
    if (p != NULL)
        release_pixel(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&x);
    PyBuffer_Release(&recon);
    return result;
}

/* pixel_decode(options, payload, groups, recon u8[groups * levels], out) -> bool: undamaged */
static PyObject *py_pixel_decode(PyObject *self, PyObject *args)
{
    pixel_call *p;
    PyObject *options, *result = NULL;
    Py_buffer payload, recon;
    Py_ssize_t groups;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "O!y*nw*", &PyTuple_Type, &options, &payload, &groups, &recon))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (parse_pixel(p, options, groups) &&
        has_items(&recon, 1, groups * p->n_levels, "recon")) {
        int good;
        Py_BEGIN_ALLOW_THREADS
        good = eae_pixel_decode(
            &p->prior, &p->net, payload.buf, (size_t)payload.len, (size_t)groups, recon.buf);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(good);
    }
done:
    if (p != NULL)
        release_pixel(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&payload);
    PyBuffer_Release(&recon);
    return result;
}

/* ---- cell priors ---- */

typedef struct {
    Py_buffer words, cum; /* obj NULL: not taken yet */
    eae_cells prior;
    eae_net net;
    void *arena;
    Py_ssize_t n_items;
} cells_call;

static void release_cells(cells_call *p)
{
    if (p->words.obj != NULL)
        PyBuffer_Release(&p->words);
    if (p->cum.obj != NULL)
        PyBuffer_Release(&p->cum);
    PyMem_RawFree(p->arena);
}

static int parse_cells(
    cells_call *p, PyObject *words, PyObject *cum, Py_ssize_t groups, Py_ssize_t steps)
{
    Py_ssize_t n;
    size_t size;
    if (!get_buffer(words, &p->words) || !get_buffer(cum, &p->cum) ||
        !has_items(&p->cum, sizeof(int32_t), EAE_CELLS * EAE_CELL_EDGES, "cum"))
        return 0;
    p->prior.cum = p->cum.buf;
    n = n_items(&p->words, sizeof(int32_t), "words");
    if (n < 0)
        return 0;
    size = eae_net_size(p->words.buf, (size_t)n);
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "words: not a causal net");
        return 0;
    }
    p->arena = PyMem_RawMalloc(size);
    if (p->arena == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    eae_net_init(&p->net, p->words.buf, (size_t)n, p->arena);
    if (!eae_cells_fit(&p->prior, &p->net) || groups < 0 || steps < 0 ||
        (steps > 0 && groups > PY_SSIZE_T_MAX / 1024 / EAE_MAX_WIDTH / steps)) {
        PyErr_SetString(PyExc_ValueError, "the net, the cell prior and the sizes do not fit");
        return 0;
    }
    p->n_items = groups * steps * (p->net.n_inputs - 1);
    return 1;
}

/* cells_encode(words i32[], cum i32[cells * edges], cond, y i32[groups * steps * channels], groups, steps)
 * -> bytes */
static PyObject *py_cells_encode(PyObject *self, PyObject *args)
{
    cells_call *p;
    PyObject *words, *cum, *result = NULL;
    Py_buffer y;
    Py_ssize_t groups, steps;
    int cond;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOiy*nn", &words, &cum, &cond, &y, &groups, &steps))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    p->prior.cond = cond;
    if (parse_cells(p, words, cum, groups, steps) &&
        has_items(&y, sizeof(int32_t), p->n_items, "y")) {
        /* a symbol takes at most 16 bits and an escape of 63 */
        size_t cap = 12 * (size_t)p->n_items + 16, len;
        uint8_t *out = PyMem_RawMalloc(cap);
        if (out == NULL) {
            PyErr_NoMemory();
            goto done;
        }
        Py_BEGIN_ALLOW_THREADS
        len = eae_cells_encode(
            &p->prior, &p->net, y.buf, (size_t)groups, (size_t)steps, out, cap);
        Py_END_ALLOW_THREADS
        result = take_bytes(out, len);
    }
done:
    if (p != NULL)
        release_cells(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&y);
    return result;
}

/* cells_decode(words, cum, cond, payload, groups, steps, y i32[], out) -> bool: undamaged */
static PyObject *py_cells_decode(PyObject *self, PyObject *args)
{
    cells_call *p;
    PyObject *words, *cum, *result = NULL;
    Py_buffer payload, y;
    Py_ssize_t groups, steps;
    int cond;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "OOiy*nnw*", &words, &cum, &cond, &payload, &groups, &steps, &y))
        return NULL;
    p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    p->prior.cond = cond;
    if (parse_cells(p, words, cum, groups, steps) &&
        has_items(&y, sizeof(int32_t), p->n_items, "y")) {
        int good;
        Py_BEGIN_ALLOW_THREADS
        good = eae_cells_decode(
            &p->prior, &p->net, payload.buf, (size_t)payload.len, (size_t)groups, (size_t)steps,
            y.buf);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(good);
    }
done:
    if (p != NULL)
        release_cells(p);
    PyMem_RawFree(p);
    PyBuffer_Release(&payload);
    PyBuffer_Release(&y);
    return result;
}

/* ---- the classical codec ---- */

#define CLASSICAL_PARAMS ((Py_ssize_t)(sizeof(eae_classical_params) / sizeof(int32_t)))

static int out_of_range(void)
{
    PyErr_SetString(PyExc_ValueError, "a parameter of the classical codec is out of range");
    return 0;
}

/* Ranges that the kernel relies on; a Python caller has checked them, so this is for mistakes. */
static int check_raster(
    const Py_buffer *delta, int channels, Py_ssize_t width, Py_ssize_t height)
{
    int c;
    if (channels < 1 || width < 0 || height < (width > 0))
        return out_of_range();
    if (!has_items(delta, sizeof(int32_t), channels, "delta"))
        return 0;
    for (c = 0; c < channels; c++) {
        int32_t step = ((const int32_t *)delta->buf)[c];
        if (step < 1 || step > EAE_MAX_DELTA || step % 2 == 0)
            return out_of_range();
    }
    return 1;
}

/* before: the channels that may be referred to */
static int are_params(const eae_classical_params *p, int before, Py_ssize_t width)
{
    int i, good = p->base >= 0 && p->base <= (width > 0 ? 32 : 31) && p->filter >= 0 &&
        p->filter <= 15 && p->reference >= -1 && p->reference < before && p->gain >= -32 &&
        p->gain <= 31 && p->start >= 0 && p->start <= 15 && p->pitch >= 0 &&
        p->pitch < 1 << 30 && p->pitch_bits >= 0 && p->pitch_bits <= 16 && p->phase >= -1 &&
        p->phase < 1 << 30 &&
        p->tally >= 0 && p->tally <= 1 + EAE_CLASSICAL_MAX_SHIFT && p->lag >= 0 &&
        p->lag <= EAE_CLASSICAL_MAX_LAG && (p->lag == 0 || p->reference < 0);
    if (p->pitch > 0 || p->tally > 0 || p->lag > 0)
        good = good && p->base < 32 && (p->pitch == 0 || p->pitch >> p->pitch_bits > 0);
    for (i = 0; i < EAE_CLASSICAL_MAX_ORDER; i++)
        good = good && p->reflection[i] >= -63 && p->reflection[i] <= 63;
    return good;
}

static int check_params(const Py_buffer *params, int channels, Py_ssize_t width)
{
    int c, good = 1;
    if (!has_items(params, sizeof(int32_t), channels * CLASSICAL_PARAMS, "params"))
        return 0;
    for (c = 0; c < channels && good; c++)
        good = are_params((const eae_classical_params *)params->buf + c, c > 0 ? c : 1, width);
    return good || out_of_range();
}

/* classical_encode(x i32[channels * steps], channels, delta i32[channels], width, height, params
 * i32[channels * 22], reference i32[steps] or empty, recon i32[channels * steps] out, limit = -1) ->
 * bytes, or None where they would be more than limit, if that is not negative. With a reference
 * there is one channel, coded as if the reference came before it. */
static PyObject *py_classical_encode(PyObject *self, PyObject *args)
{
    Py_buffer x, delta, params, reference, recon;
    int channels;
    Py_ssize_t width, height, n, limit = -1;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*iy*nny*y*w*|n", &x, &channels, &delta, &width, &height, &params, &reference,
            &recon, &limit))
        return NULL;
    n = n_items(&x, sizeof(int32_t), "x");
    if (n >= 0 && check_raster(&delta, channels, width, height) &&
        check_params(&params, channels, width) &&
        has_items(&recon, sizeof(int32_t), n, "recon") &&
        has_items(&reference, sizeof(int32_t), reference.len > 0 ? n : 0, "reference")) {
        size_t steps = (size_t)n / (size_t)channels, cap = 16 * (size_t)n + 64 * (size_t)channels;
        const size_t most = limit < 0 || (size_t)limit > cap - 4 ? cap - 4 : (size_t)limit;
        uint8_t *out = PyMem_RawMalloc(cap = most + 4); /* the end takes up to 4 bytes for a while */
        uint32_t *sizes = PyMem_RawMalloc((steps + 1) * sizeof *sizes);
        size_t len = EAE_OVERFLOW;
        int64_t spent;
        if (n % channels != 0 || (reference.len > 0 && channels != 1)) {
            PyErr_SetString(PyExc_ValueError, "x: not a whole number of steps");
        } else if (out == NULL || sizes == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            if (reference.len > 0)
                len = eae_classical_try(
                    x.buf, reference.buf, recon.buf, sizes, steps, *(const int32_t *)delta.buf,
                    (size_t)width, (size_t)height, params.buf, out, cap, &spent);
            else
                len = eae_classical_encode(
                    x.buf, recon.buf, sizes, steps, channels, delta.buf, (size_t)width,
                    (size_t)height, params.buf, out, cap);
            Py_END_ALLOW_THREADS
            if (len != EAE_OVERFLOW && len <= most) {
                result = take_bytes(out, len);
                out = NULL;
            } else if (limit >= 0) {
                Py_INCREF(Py_None);
                result = Py_None;
            } else {
                PyErr_SetString(PyExc_ValueError, "x: a sample is out of range");
            }
        }
        PyMem_RawFree(out);
        PyMem_RawFree(sizes);
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&delta);
    PyBuffer_Release(&params);
    PyBuffer_Release(&reference);
    PyBuffer_Release(&recon);
    return result;
}

/* classical_measure(x i32[steps], delta, width, height, params i32[n * 22], reference i32[steps] or
 * empty, costs i64[n] out, exactly): what n choices of parameters take; estimated in 1/16 bit,
 * without the parameters, or exactly in 1/256 bit, with them */
static PyObject *py_classical_measure(PyObject *self, PyObject *args)
{
    Py_buffer x, params, reference, costs;
    long step;
    int exactly, good = 1;
    Py_ssize_t width, height, n, choices, c;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*lnny*y*w*p", &x, &step, &width, &height, &params, &reference, &costs,
            &exactly))
        return NULL;
    n = n_items(&x, sizeof(int32_t), "x");
    choices = n_items(&costs, sizeof(int64_t), "costs");
    if (n < 0 || choices < 0 ||
        !has_items(&params, sizeof(int32_t), choices * CLASSICAL_PARAMS, "params") ||
        !has_items(&reference, sizeof(int32_t), reference.len > 0 ? n : 0, "reference"))
        goto done;
    if (step < 1 || step > EAE_MAX_DELTA || step % 2 == 0 || width < 0 || height < (width > 0))
        good = 0;
    for (c = 0; c < choices && good; c++) {
        const eae_classical_params *p = (const eae_classical_params *)params.buf + c;
        good = are_params(p, 1, width) && (p->reference < 0 || reference.len > 0);
    }
    if (!good) {
        out_of_range();
    } else {
        const int32_t *near = reference.len > 0 ? reference.buf : NULL;
        size_t cap = exactly ? 16 * (size_t)n + 64 : 0;
        int32_t *recon = PyMem_RawMalloc(((size_t)n + 1) * sizeof *recon);
        uint32_t *sizes = PyMem_RawMalloc(((size_t)n + 1) * sizeof *sizes);
        uint8_t *out = PyMem_RawMalloc(cap + 1);
        if (recon == NULL || sizes == NULL || out == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            if (!exactly)
                eae_classical_measure(
                    x.buf, near, recon, (size_t)n, (int32_t)step, (size_t)width, (size_t)height,
                    params.buf, (size_t)choices, costs.buf);
            for (c = 0; exactly && c < choices; c++)
                if (eae_classical_try(
                        x.buf, near, recon, sizes, (size_t)n, (int32_t)step, (size_t)width,
                        (size_t)height, (const eae_classical_params *)params.buf + c, out, cap,
                        (int64_t *)costs.buf + c) == EAE_OVERFLOW)
                    ((int64_t *)costs.buf)[c] = INT64_MAX;
            Py_END_ALLOW_THREADS
            Py_INCREF(Py_None);
            result = Py_None;
        }
        PyMem_RawFree(recon);
        PyMem_RawFree(sizes);
        PyMem_RawFree(out);
    }
done:
    PyBuffer_Release(&x);
    PyBuffer_Release(&params);
    PyBuffer_Release(&reference);
    PyBuffer_Release(&costs);
    return result;
}

/* classical_reflect(y i64[n], delta, reflection i32[16] out): |y| < 2^36 */
static PyObject *py_classical_reflect(PyObject *self, PyObject *args)
{
    Py_buffer y, reflection;
    long step;
    Py_ssize_t n;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*lw*", &y, &step, &reflection))
        return NULL;
    n = n_items(&y, sizeof(int64_t), "y");
    if (n >= 0 && ((step >= 1 && step <= EAE_MAX_DELTA && step % 2 == 1) || out_of_range()) &&
        has_items(&reflection, sizeof(int32_t), EAE_CLASSICAL_MAX_ORDER, "reflection")) {
        int32_t *work = PyMem_RawMalloc(((size_t)n + 1) * sizeof *work);
        if (work == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            eae_classical_reflect(y.buf, work, (size_t)n, (int32_t)step, reflection.buf);
            Py_END_ALLOW_THREADS
            PyMem_RawFree(work);
            Py_INCREF(Py_None);
            result = Py_None;
        }
    }
    PyBuffer_Release(&y);
    PyBuffer_Release(&reflection);
    return result;
}

/* classical_decode(payload, channels, delta i32[channels], width, height, recon i32[channels *
 * steps] out) -> bool: True where the payload is good and used up */
static PyObject *py_classical_decode(PyObject *self, PyObject *args)
{
    Py_buffer payload, delta, recon;
    int channels;
    Py_ssize_t width, height, n;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*iy*nnw*", &payload, &channels, &delta, &width, &height, &recon))
        return NULL;
    n = n_items(&recon, sizeof(int32_t), "recon");
    if (n >= 0 && check_raster(&delta, channels, width, height) &&
        (n % channels == 0 || out_of_range())) {
        size_t steps = (size_t)n / (size_t)channels;
        uint32_t *sizes = PyMem_RawMalloc((steps + 1) * sizeof *sizes);
        if (sizes == NULL) {
            PyErr_NoMemory();
        } else {
            int good;
            Py_BEGIN_ALLOW_THREADS
            good = eae_classical_decode(
                payload.buf, (size_t)payload.len, recon.buf, sizes, steps, channels,
                delta.buf, (size_t)width, (size_t)height);
            Py_END_ALLOW_THREADS
            PyMem_RawFree(sizes);
            result = PyBool_FromLong(good);
        }
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&delta);
    PyBuffer_Release(&recon);
    return result;
}

/* ---- the recalling codec ---- */

static void *recall_room(Py_ssize_t n, int channels)
{
    void *room = PyMem_RawMalloc(eae_recall_room((size_t)n / (size_t)channels));
    if (room == NULL)
        PyErr_NoMemory();
    return room;
}

/* recall_encode(x i32[channels * steps], channels, delta i32[channels], recon i32[channels * steps]
 * out, limit, pace i64[9] or None) -> bytes, or None where they would be more than limit, if that is not
 * negative, or fall behind the pace */
static PyObject *py_recall_encode(PyObject *self, PyObject *args)
{
    Py_buffer x, delta, recon, pace = {0};
    int channels;
    Py_ssize_t n, limit;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iy*w*nz*", &x, &channels, &delta, &recon, &limit, &pace))
        return NULL;
    n = n_items(&x, sizeof(int32_t), "x");
    if (n >= 0 && check_raster(&delta, channels, 0, 0) && (n % channels == 0 || out_of_range()) &&
        has_items(&recon, sizeof(int32_t), n, "recon") && is_pace(&pace, "pace")) {
        const size_t cap = 100 * (size_t)n + 8; /* 66 bits a sample, which may cost 12 each */
        const size_t most = limit < 0 || (size_t)limit > cap ? cap : (size_t)limit;
        uint8_t *out = PyMem_RawMalloc(most + 4); /* the end takes up to 4 bytes for a while */
        void *room = recall_room(n, channels);
        if (out == NULL) {
            PyErr_NoMemory();
        } else if (room != NULL) {
            size_t len;
            Py_BEGIN_ALLOW_THREADS
            len = eae_recall_encode(
                x.buf, recon.buf, (size_t)n / (size_t)channels, channels, delta.buf, room, out,
                most, pace.buf);
            Py_END_ALLOW_THREADS
            if (len != EAE_OVERFLOW) {
                result = take_bytes(out, len);
                out = NULL;
            } else if (limit >= 0 || pace.buf != NULL) {
                Py_INCREF(Py_None);
                result = Py_None;
            } else {
                PyErr_SetString(PyExc_ValueError, "x: a sample is out of range");
            }
        }
        PyMem_RawFree(out);
        PyMem_RawFree(room);
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&delta);
    PyBuffer_Release(&recon);
    PyBuffer_Release(&pace);
    return result;
}

/* recall_decode(payload, channels, delta i32[channels], recon i32[channels * steps] out) -> bool:
 * True where the payload is good and used up */
static PyObject *py_recall_decode(PyObject *self, PyObject *args)
{
    Py_buffer payload, delta, recon;
    int channels;
    Py_ssize_t n;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iy*w*", &payload, &channels, &delta, &recon))
        return NULL;
    n = n_items(&recon, sizeof(int32_t), "recon");
    if (n >= 0 && check_raster(&delta, channels, 0, 0) && (n % channels == 0 || out_of_range())) {
        void *room = recall_room(n, channels);
        if (room != NULL) {
            int good;
            Py_BEGIN_ALLOW_THREADS
            good = eae_recall_decode(
                payload.buf, (size_t)payload.len, recon.buf, (size_t)n / (size_t)channels, channels,
                delta.buf, room);
            Py_END_ALLOW_THREADS
            PyMem_RawFree(room);
            result = PyBool_FromLong(good);
        }
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&delta);
    PyBuffer_Release(&recon);
    return result;
}

/* ---- the recalling codec for pictures ---- */

/* Pixels of one channel, where n of all channels are whole pictures; else -1, and an error. */
static Py_ssize_t pixels_of(Py_ssize_t n, int channels, Py_ssize_t width, Py_ssize_t height)
{
    if (channels < 1 || width < 1 || height < 1 || width > 65536 || height > 65536 || n < 0 ||
        n % channels != 0 || n / channels % (width * height) != 0) {
        out_of_range();
        return -1;
    }
    return n / channels;
}

/* levels_encode(symbols u8[channels * steps], levels i32[channels * 64], counts i32[channels],
 * width, height, limit) -> bytes, or None where they would be more than limit, if that is not
 * negative */
static PyObject *py_levels_encode(PyObject *self, PyObject *args)
{
    Py_buffer symbols, levels, counts;
    Py_ssize_t width, height, limit, n, steps = -1;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*nnn", &symbols, &levels, &counts, &width, &height, &limit))
        return NULL;
    n = n_items(&counts, sizeof(int32_t), "counts");
    if (n > 0 && n <= 65536 &&
        has_items(&levels, sizeof(int32_t), n * EAE_FEW_LEVELS, "levels"))
        steps = pixels_of(symbols.len, (int)n, width, height);
    if (steps >= 0) {
        const int32_t *count = counts.buf, *level = levels.buf;
        const uint8_t *symbol = symbols.buf;
        const size_t cap = 32 * (size_t)symbols.len + 128 * (size_t)n;
        const size_t most = limit < 0 || (size_t)limit > cap ? cap : (size_t)limit;
        uint8_t *out = PyMem_RawMalloc(most + EAE_LEVELS_SPARE);
        void *room = PyMem_RawMalloc(eae_levels_room((size_t)steps));
        Py_ssize_t c, i;
        int good = 1;
        for (c = 0; c < n && good; c++) {
            const int32_t *own = level + c * EAE_FEW_LEVELS;
            good = count[c] >= 1 && count[c] <= EAE_FEW_LEVELS;
            for (i = 0; good && i < count[c]; i++)
                good = own[i] < 1 << 30 && own[i] > -(1 << 30) && (i == 0 || own[i] > own[i - 1]);
            for (i = 0; good && i < steps; i++)
                good = symbol[c * steps + i] < count[c];
        }
        if (!good) {
            out_of_range();
        } else if (out == NULL || room == NULL) {
            PyErr_NoMemory();
        } else {
            size_t len;
            Py_BEGIN_ALLOW_THREADS
            len = eae_levels_encode(
                symbol, level, count, (size_t)steps, (int)n, (size_t)width, (size_t)height, room,
                out, most);
            Py_END_ALLOW_THREADS
            if (len != EAE_OVERFLOW) {
                result = take_bytes(out, len);
                out = NULL;
            } else {
                Py_INCREF(Py_None);
                result = Py_None;
            }
        }
        PyMem_RawFree(out);
        PyMem_RawFree(room);
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&levels);
    PyBuffer_Release(&counts);
    return result;
}

/* levels_decode(payload, channels, width, height, x i32[channels * steps] out) -> bool: True where
 * the payload is good and used up */
static PyObject *py_levels_decode(PyObject *self, PyObject *args)
{
    Py_buffer payload, x;
    int channels;
    Py_ssize_t width, height, n, steps;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*innw*", &payload, &channels, &width, &height, &x))
        return NULL;
    n = n_items(&x, sizeof(int32_t), "x");
    steps = n < 0 ? -1 : pixels_of(n, channels, width, height);
    if (steps >= 0) {
        uint8_t *symbol = PyMem_RawMalloc((size_t)steps + 1);
        void *room = PyMem_RawMalloc(eae_levels_room((size_t)steps));
        if (symbol == NULL || room == NULL) {
            PyErr_NoMemory();
        } else {
            int good;
            Py_BEGIN_ALLOW_THREADS
            good = eae_levels_decode(
                payload.buf, (size_t)payload.len, x.buf, symbol, (size_t)steps, channels,
                (size_t)width, (size_t)height, room);
            Py_END_ALLOW_THREADS
            result = PyBool_FromLong(good);
        }
        PyMem_RawFree(symbol);
        PyMem_RawFree(room);
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&x);
    return result;
}

/* ---- nets ---- */

#define NET_NAME "edgeae.net"

/* An open program with what it points to; `busy` while a run without the interpreter's lock uses
 * the arena. */
typedef struct {
    Py_buffer words, constants, given; /* given: the caller's arena, where there is one */
    eae_program program;
    char *memory, *arena;
    int clone, busy;
} open_net;

static char *aligned_memory(size_t size, char **start)
{
    char *memory = PyMem_RawMalloc(size + 64);
    *start = memory == NULL ? NULL : memory + (64 - (uintptr_t)memory % 64) % 64;
    return memory;
}

static void free_net(open_net *net)
{
    if (net->words.obj != NULL)
        PyBuffer_Release(&net->words);
    if (net->constants.obj != NULL)
        PyBuffer_Release(&net->constants);
    if (net->given.obj != NULL)
        PyBuffer_Release(&net->given);
    PyMem_RawFree(net->memory);
    PyMem_RawFree(net);
}

static void close_net(PyObject *capsule)
{
    open_net *net = PyCapsule_GetPointer(capsule, NET_NAME);
    if (net != NULL)
        free_net(net);
}

/* net_clones() -> names of the instruction sets there are kernels for, best first */
static PyObject *py_net_clones(PyObject *self, PyObject *unused)
{
    const char *names[EAE_MAX_CLONES];
    int i, n = eae_program_clones(names);
    PyObject *found = PyTuple_New(n);
    (void)self;
    (void)unused;
    for (i = 0; found != NULL && i < n; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL)
            Py_CLEAR(found);
        else
            PyTuple_SET_ITEM(found, i, name);
    }
    return found;
}

/* Memory for a net to work in: the caller's, aligned to 64, or its own. */
static int find_arena(open_net *net, PyObject *given)
{
    if (given == NULL || given == Py_None) {
        net->memory = aligned_memory(net->program.arena_size, &net->arena);
        if (net->memory == NULL)
            PyErr_NoMemory();
        return net->memory != NULL;
    }
    if (PyObject_GetBuffer(given, &net->given, PyBUF_WRITABLE) != 0)
        return 0;
    net->arena = net->given.buf;
    if ((uintptr_t)net->arena % 64 == 0 && (size_t)net->given.len >= net->program.arena_size)
        return 1;
    PyErr_SetString(PyExc_ValueError, "arena: too small, or not aligned to 64 bytes");
    return 0;
}

/* net_open(words i32[], constants aligned to 64, clone, arena u8[] aligned to 64 or None) -> a net;
 * an arena that was given keeps what a run leaves in it, and one thread at a time may use it */
static PyObject *py_net_open(PyObject *self, PyObject *args)
{
    open_net *net;
    const char *wrong = NULL;
    PyObject *words, *constants, *arena = NULL, *capsule = NULL;
    int clone;
    Py_ssize_t n;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOi|O", &words, &constants, &clone, &arena))
        return NULL;
    net = PyMem_RawCalloc(1, sizeof *net);
    if (net == NULL)
        return PyErr_NoMemory();
    net->clone = clone;
    if (PyObject_GetBuffer(words, &net->words, PyBUF_SIMPLE) == 0 &&
        PyObject_GetBuffer(constants, &net->constants, PyBUF_SIMPLE) == 0 &&
        (n = n_items(&net->words, sizeof(int32_t), "words")) >= 0) {
        if ((uintptr_t)net->constants.buf % 64 != 0)
            wrong = "the constants are not aligned to 64 bytes";
        else
            wrong = eae_program_check(
                &net->program, net->words.buf, (size_t)n, net->constants.buf,
                (size_t)net->constants.len);
        if (wrong != NULL) {
            PyErr_Format(PyExc_ValueError, "words: %s", wrong);
        } else if (find_arena(net, arena)) {
            capsule = PyCapsule_New(net, NET_NAME, close_net);
        }
    }
    if (capsule == NULL)
        free_net(net);
    return capsule;
}

/* net_run(net, in f32[n * n_in], out f32[n * n_out], n) -> bool: True where all the inputs are
 * numbers that the net may be given */
static PyObject *py_net_run(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    open_net *net;
    Py_buffer in, out;
    PyObject *result = NULL;
    Py_ssize_t n;
    (void)self;
    if (n_args != 4) {
        PyErr_SetString(PyExc_TypeError, "net_run takes a net, two arrays and a count");
        return NULL;
    }
    net = PyCapsule_GetPointer(args[0], NET_NAME);
    n = PyLong_AsSsize_t(args[3]);
    if (net == NULL || (n == -1 && PyErr_Occurred()) ||
        PyObject_GetBuffer(args[1], &in, PyBUF_SIMPLE) != 0)
        return NULL;
    if (PyObject_GetBuffer(args[2], &out, PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&in);
        return NULL;
    }
    if (n < 0 || n > PY_SSIZE_T_MAX / 8 / net->program.n_in ||
        n > PY_SSIZE_T_MAX / 8 / net->program.n_out) {
        PyErr_SetString(PyExc_ValueError, "n is out of range");
    } else if (has_items(&in, sizeof(float), n * net->program.n_in, "in") &&
               has_items(&out, sizeof(float), n * net->program.n_out, "out")) {
        const int alone = !net->busy;
        char *arena = net->arena;
        char *memory = alone ? NULL : aligned_memory(net->program.arena_size, &arena);
        if (arena == NULL) {
            PyErr_NoMemory();
        } else {
            int bad;
            if (alone)
                net->busy = 1;
            Py_BEGIN_ALLOW_THREADS
            bad = eae_program_run(&net->program, net->clone, in.buf, out.buf, (size_t)n, arena);
            Py_END_ALLOW_THREADS
            if (alone)
                net->busy = 0;
            PyMem_RawFree(memory);
            result = PyBool_FromLong(!bad);
        }
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"cdf_encode", py_cdf_encode, METH_VARARGS, "Code integers with tables of one family."},
    {"cdf_decode", py_cdf_decode, METH_VARARGS, "Read integers that cdf_encode wrote."},
    {"prior_encode", py_prior_encode, METH_VARARGS, "Code samples with a prior."},
    {"prior_decode", py_prior_decode, METH_VARARGS, "Read samples that prior_encode wrote."},
    {"pixel_encode", py_pixel_encode, METH_VARARGS, "Code images with a pixel prior."},
    {"pixel_decode", py_pixel_decode, METH_VARARGS, "Read images that pixel_encode wrote."},
    {"cells_encode", py_cells_encode, METH_VARARGS, "Code latents with a cell prior."},
    {"cells_decode", py_cells_decode, METH_VARARGS, "Read latents that cells_encode wrote."},
    {"classical_encode", py_classical_encode, METH_VARARGS, "Code samples without a model."},
    {"classical_measure", py_classical_measure, METH_VARARGS, "Estimate what choices would take."},
    {"classical_reflect", py_classical_reflect, METH_VARARGS, "Fit a linear predictor."},
    {"classical_decode", py_classical_decode, METH_VARARGS, "Read what classical_encode wrote."},
    {"levels_encode", py_levels_encode, METH_VARARGS, "Code pictures of few levels."},
    {"levels_decode", py_levels_decode, METH_VARARGS, "Read what levels_encode wrote."},
    {"recall_encode", py_recall_encode, METH_VARARGS, "Code samples by what came after the same."},
    {"recall_decode", py_recall_decode, METH_VARARGS, "Read what recall_encode wrote."},
    {"net_clones", py_net_clones, METH_NOARGS, "Instruction sets that nets can run on."},
    {"net_open", py_net_open, METH_VARARGS, "Check a net's program and make its arena."},
    {"net_run", (PyCFunction)(void (*)(void))py_net_run, METH_FASTCALL, "Run a net."},
    {"known_shapes", py_known_shapes, METH_NOARGS, "The shapes compiled in."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_core", "The C kernels of edgeae.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
