/* Runs programs from a file and compares, for instruction sets that this machine's Python lacks:
 *
 *     cc native_replay.c net.c -lm && ./a.out programs.bin
 *
 * The file: per case 5 int64 (words, bytes of constants, samples, inputs, outputs), then the words,
 * the constants, the input and the expected output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

static void *read_block(FILE *file, size_t size)
{
    char *block = malloc(size + 128);
    char *start = block + (64 - (size_t)block % 64) % 64; /* never freed: this runs once */
    if (block == NULL || fread(start, 1, size, file) != size)
        exit(3);
    return start;
}

int main(int argc, char **argv)
{
    const char *names[EAE_MAX_CLONES];
    int n_clones = eae_program_clones(names), clone, differing = 0, cases = 0;
    int64_t head[5];
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (file == NULL)
        return 3;
    while (fread(head, sizeof *head, 5, file) == 5) {
        int32_t *words = read_block(file, (size_t)head[0] * 4);
        char *constants = read_block(file, (size_t)head[1]);
        float *in = read_block(file, (size_t)(head[2] * head[3]) * 4);
        float *want = read_block(file, (size_t)(head[2] * head[4]) * 4);
        float *out = malloc((size_t)(head[2] * head[4]) * 4);
        eae_program program;
        const char *wrong =
            eae_program_check(&program, words, (size_t)head[0], constants, (size_t)head[1]);
        if (wrong != NULL) {
            printf("case %d: %s\n", cases, wrong);
            return 2;
        }
        for (clone = 0; clone < n_clones; clone++) {
            char *memory = malloc(program.arena_size + 64);
            char *arena = memory + (64 - (size_t)memory % 64) % 64;
            memset(memory, 0xA5, program.arena_size + 64);
            if (eae_program_run(&program, clone, in, out, (size_t)head[2], arena) != 0 ||
                memcmp(out, want, (size_t)(head[2] * head[4]) * 4) != 0) {
                printf("case %d differs on %s\n", cases, names[clone]);
                differing++;
            }
            free(memory);
        }
        free(out);
        cases++;
    }
    printf("%d cases, %d differ, on", cases, differing);
    for (clone = 0; clone < n_clones; clone++)
        printf(" %s", names[clone]);
    printf("\n");
    return differing != 0 || cases == 0;
}
