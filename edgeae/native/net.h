/* Runs a net that edgeae/runtime/program.py compiled: int16 activations and int32 sums for exact
 * (dyadic) nets, float32 for others. No Python, no heap: the caller brings the words, the constants
 * and one arena.
 *
 * A program is a list of steps over the arena. Activations lie channel last, [H][W][C] with a border
 * of zeros where a convolution wants one, so that a row of a convolution's window is one run of
 * numbers, and a window is `n_segments` such runs. Sixteen outputs make a block; weights come packed
 * per block so that vectors run over outputs:
 *
 *     int16:   [block][segment][pair of inputs][16 outputs][2]   int8 or int16
 *     float:   [block][segment][input][16 outputs]               float32
 *
 * An integer layer ends with y = clip(round_half_even(sum * 2^-shift)), a float one with clip(sum).
 */
#ifndef EDGEAE_NET_H
#define EDGEAE_NET_H

#include <stddef.h>
#include <stdint.h>

#define EAE_PROGRAM_MAGIC 0x4E454132
#define EAE_PROGRAM_HEADER 8
#define EAE_BLOCK 16
#define EAE_MAX_DIMS 6

enum {
    EAE_STEP_INPUT = 1,
    EAE_STEP_OUTPUT = 2,
    EAE_STEP_COPY = 3,
    EAE_STEP_ZERO = 4,
    EAE_STEP_CONV = 5,
    EAE_STEP_ADD = 6,
};

/* A program that eae_program_check accepted. The pointers stay the caller's. */
typedef struct {
    const int32_t *words;
    const char *constants;
    size_t n_words, n_constants, arena_size;
    int32_t is_float, n_steps;
    int32_t n_in, n_out; /* floats per sample */
    int32_t rows;        /* 0: one sample at a time; else up to that many samples are one run */
} eae_program;

/* The instruction sets that this build has kernels for and this CPU can run, best first. */
#define EAE_MAX_CLONES 4
int eae_program_clones(const char *names[EAE_MAX_CLONES]);

/* Fills `program` and returns NULL, or says what is wrong with the words: every access of an accepted
 * program lies inside its arena, its constants, its input and its output. `words` are aligned to 4
 * bytes, `constants` to 64. */
const char *eae_program_check(
    eae_program *program, const int32_t *words, size_t n_words, const char *constants,
    size_t n_constants);

/* Runs n samples. `arena` is aligned to 64 and has arena_size bytes; what it holds does not matter.
 * `clone` counts in eae_program_clones. Returns 0, or 1 where an input is not a number that an exact
 * net may be given; then the output is not meaningful. */
int eae_program_run(
    const eae_program *program, int clone, const float *in, float *out, size_t n, void *arena);

#endif
