"""Lattices within a frame: samples that keep to every eighth index, or to every 66.98th.

The grid of a stream is the finest that any of its samples needs. A frame, or a channel, often keeps
to a coarser one: counts that are multiples of ten, numbers that were rounded after they were
scaled, sensors whose software adds an offset that moves now and then. FORMAT.md, section 8.3,
describes how a channel is coded on such points, and what lies beside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PITCH_LIMIT", "Lattice", "likely_lattices"]

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

PITCH_LIMIT = 1 << 30
_FRACTION_BITS = 16
_ENOUGH = 16
_VOTERS = 128
_SHARE = 0.35
_VOTE = 12


class Lattice(NamedTuple):
    """Points ``phase + n * pitch``, rounded.

    Attributes:
        pitch: distance of two neighbours in ``2 ** -bits`` indices, at least 1 index.
        bits: fractional bits of the pitch, 0..16.
        phase: a point, likewise; -1 if each sample's lattice goes through the sample before.
    """

    pitch: int
    bits: int
    phase: int

    @property
    def scaled(self) -> int:
        """The pitch in 1/65536 index."""
        return self.pitch << (_FRACTION_BITS - self.bits)

    @property
    def scaled_phase(self) -> int:
        """The phase in 1/65536 index; 0 where it is the sample before."""
        return max(self.phase, 0) << (_FRACTION_BITS - self.bits)

    def point(self, n: int) -> int:
        """The n-th point; where the phase is a sample, past that."""
        return (n * self.scaled + self.scaled_phase + 32768) >> 16

    def number(self, x: int) -> int:
        """The number of the point next to x; where the phase is a sample, past that."""
        return (x * 65536 - self.scaled_phase + self.scaled // 2) // self.scaled

    def numbers(self, x: IntArray) -> IntArray:
        """The number of the point next to each sample of x [T]; the first's is 0 if it moves."""
        wide = x.astype(np.int64) - (int(x[0]) if self.phase < 0 else 0)
        shift = self.scaled // 2 - self.scaled_phase
        return ((wide * 65536 + shift) // self.scaled).astype(np.int32)

    def scaled_down(self, x: IntArray) -> IntArray:
        """Samples x [T] of another channel in units of the pitch."""
        return ((x.astype(np.int64) * 65536 + self.scaled // 2) // self.scaled).astype(np.int32)

    def sample(self, x: IntArray, n: int) -> int:
        """The point of a number that `numbers` gave for x."""
        return (int(x[0]) if self.phase < 0 else 0) + self.point(n)


def likely_lattices(x: IntArray, delta: int) -> list[Lattice]:
    """Lattices that samples x [T] seem to keep to, coarser than the quantizer's step.

    Nothing binds a reader here: samples beside a lattice are coded too.

    Example:
        >>> n = np.random.default_rng(0).integers(-99, 99, 500)
        >>> likely_lattices((7 + 12 * n).astype(np.int32), 1)
        [Lattice(pitch=12, bits=0, phase=7)]
    """
    wide = x.astype(np.int64)
    steps = np.abs(np.diff(wide))
    if int(steps.max(initial=0)) <= delta:
        return []
    divisor = int(np.gcd.reduce(steps[:64]))
    if divisor > 1:
        divisor = int(np.gcd.reduce(steps))
    if divisor > 1:
        pitch = divisor * (2 * ((delta // 2) // divisor) + 1)  # some points for one sample
        common = [_of(pitch, int(wide[0]) % pitch)] if delta < pitch < PITCH_LIMIT else []
        # one sample beside a coarser lattice must not hide it
        return common + [w for w in _moving_lattices(wide, steps, delta) if w.pitch > pitch]
    found = _moving_lattices(wide, steps, delta)
    if int(steps[steps > 0].min()) > max(delta, 1):
        fraction = _scaled_lattice(wide, delta)
        if fraction is not None:
            found += [fraction, fraction._replace(phase=-1)]
    return found


def _of(pitch: int, phase: int) -> Lattice:
    return Lattice(pitch, 0, phase)


def _moving_lattices(x: LongArray, steps: LongArray, delta: int) -> list[Lattice]:
    """Where most samples, or most steps, are multiples of something, as pairs of steps tell."""
    steps = steps[steps > 0][:_VOTERS]
    if steps.size < _ENOUGH:
        return []
    divisors = np.gcd(steps[1:], steps[:-1])
    kinds, votes = np.unique(divisors[divisors > delta], return_counts=True)
    kinds = kinds[_VOTE * votes > steps.size]
    best, found = 0.0, []
    for pitch in kinds.tolist():
        if 1 < pitch < PITCH_LIMIT:
            steady = np.count_nonzero(steps % pitch == 0) / steps.size - 1 / pitch
            phase, share = _usual_phase(x[:_VOTERS], pitch)
            gain = max(steady, share - 1 / pitch)
            if gain > _SHARE and gain * pitch.bit_length() > best:
                best = gain * pitch.bit_length()
                found = [_of(pitch, phase)] if share > _SHARE else []
                found += [_of(pitch, -1)] if steady > _SHARE else []
    return found


def _usual_phase(x: LongArray, pitch: int) -> tuple[int, float]:
    """The commonest remainder of samples x [T], and its share."""
    places, votes = np.unique(x % pitch, return_counts=True)
    most = int(votes.argmax())
    return int(places[most]), int(votes[most]) / x.size


def _scaled_lattice(x: LongArray, delta: int) -> Lattice | None:
    """Multiples of a number that is no integer, rounded: from the gaps between the values."""
    values = np.unique(x)
    gaps = np.diff(values)
    least = int(gaps.min())
    if gaps.size < _ENOUGH or least < 2 or least <= delta:
        return None
    values -= values[0]
    exact = values.astype(np.float64)
    rough = float(gaps[gaps <= least + (least >> 2) + 1].mean())
    for part in (1, 2, 3):
        step = _refined(rough / part, exact)
        if step is not None:
            break
    else:
        return None
    n = np.rint(exact / step)
    step = _slope(n, exact)
    bits = max(min(_FRACTION_BITS, 29 - int(step).bit_length()), 0)
    pitch = round(step * (1 << bits))
    while bits and pitch % 2 == 0:
        pitch, bits = pitch // 2, bits - 1
    if not 1 << bits < pitch < PITCH_LIMIT or pitch >> bits <= delta:
        return None
    rest = exact - np.rint(exact / step) * step
    middle = float(rest.max() + rest.min()) / 2
    phase = round(middle * (1 << bits)) + (int(x.min()) << bits)
    return Lattice(pitch, bits, phase % pitch)


def _refined(step: float, values: npt.NDArray[np.float64]) -> float | None:
    """Sharpen a rough step on differences of doubling length; None if they contradict it."""
    reach = 4 * step
    while True:
        other = np.searchsorted(values, values + min(reach, values[-1]), side="right") - 1
        gaps = (values[other] - values)[other > np.arange(values.size)]
        if gaps.size:
            k = np.rint(gaps / step)
            step = float(np.dot(k, gaps) / max(float(np.dot(k, k)), 1.0))
            if float(np.abs(gaps - np.rint(gaps / step) * step).max()) > 0.3 * step + 1:
                return None
        if reach >= values[-1]:
            return step
        reach *= 2


def _slope(n: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    centred = n - n.mean()
    return float(
        np.dot(centred, values - values.mean()) / max(float(np.dot(centred, centred)), 1.0)
    )
