/* Tables of what was met before: a hash of two numbers, and how large a table is. */
#ifndef EDGEAE_MIX_H
#define EDGEAE_MIX_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t eae_mix(uint32_t a, uint32_t b)
{
    uint32_t h = (a * 0x9E3779B1u) ^ ((b + 0x7F4A7C15u) * 0x85EBCA6Bu);
    h = (h ^ (h >> 15)) * 0xC2B2AE35u;
    return h ^ (h >> 13);
}

/* Bits that number so many places, 10 to `most`. */
static inline int eae_bits_for(size_t n, int most)
{
    int bits = 10;
    while (bits < most && ((size_t)1 << bits) < n)
        bits++;
    return bits;
}

#endif
