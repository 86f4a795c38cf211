/* Division by powers of two, rounded down or half to even, without dividing and without shifting
 * negative numbers, which C leaves open.
 */
#ifndef EDGEAE_SHIFTS_H
#define EDGEAE_SHIFTS_H

#include <stdint.h>

/* floor(v / 2^shift), |v| <= 2^62, shift in 0..62 */
static inline int64_t eae_floor_shift(int64_t v, int shift)
{
    const uint64_t above = (uint64_t)1 << 62;
    return (int64_t)(((uint64_t)v + above) >> shift) - (int64_t)(above >> shift);
}

/* v / 2^shift, rounded half to even; |v| < 2^61, shift in 0..60 */
static inline int64_t eae_round_shift(int64_t v, int shift)
{
    int64_t half = (int64_t)(((uint64_t)1 << shift) >> 1);
    int64_t odd = eae_floor_shift(v, shift) & (half > 0);
    return eae_floor_shift(v + half - (half > 0) + odd, shift);
}

#endif
