/* A hash of two numbers, for tables of what was met before. */
#ifndef EDGEAE_MIX_H
#define EDGEAE_MIX_H

#include <stdint.h>

static inline uint32_t eae_mix(uint32_t a, uint32_t b)
{
    uint32_t h = (a * 0x9E3779B1u) ^ ((b + 0x7F4A7C15u) * 0x85EBCA6Bu);
    h = (h ^ (h >> 15)) * 0xC2B2AE35u;
    return h ^ (h >> 13);
}

#endif
