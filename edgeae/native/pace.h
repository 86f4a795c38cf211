/* How a frame's bytes grow while it is coded: the twin of edgeae/bitstream/pace.py. */
#ifndef EDGEAE_PACE_H
#define EDGEAE_PACE_H

#include <stddef.h>
#include <stdint.h>

#define EAE_MARKS 9

typedef struct {
    const int64_t *pace; /* most bytes at each mark, or NULL */
    int64_t *marks;      /* gets the bytes at each mark, or NULL */
    size_t place[EAE_MARKS], done;
    int next;
} eae_paced;

/* Starts on a frame of n items; `pace` and `marks` are set already. */
static inline void eae_pace_start(eae_paced *p, size_t n)
{
    int k;
    p->place[0] = n >> 5;
    p->place[1] = n >> 4;
    for (k = 1; k < 8; k++)
        p->place[k + 1] = n * (size_t)k >> 3;
    p->done = 0;
    p->next = 0;
}

/* Counts an item, `bytes` being written so far: 0 where they are more than the pace allows. */
static inline int eae_pace_count(eae_paced *p, size_t bytes)
{
    int kept = 1;
    p->done++;
    while (p->next < EAE_MARKS && p->place[p->next] <= p->done) {
        if (p->marks != NULL)
            p->marks[p->next] = (int64_t)bytes;
        if (p->pace != NULL && (int64_t)bytes > p->pace[p->next])
            kept = 0;
        p->next++;
    }
    return kept;
}

#endif
