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

#include "cdf.h"
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

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"cdf_encode", py_cdf_encode, METH_VARARGS, "Code integers with tables of one family."},
    {"cdf_decode", py_cdf_decode, METH_VARARGS, "Read integers that cdf_encode wrote."},
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
