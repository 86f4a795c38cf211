"""What a choice of parameters would cost, without coding: the twin of the one in C.

The sizes of the residuals tell, eight at a time: the entropy of two-sided geometric numbers of
their mean size. Choices are walked through side by side, and those that fall behind give up: what
they would cost is then told from how far.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from edgeae.bitstream.classical_loop import Walk
from edgeae.bitstream.classical_params import PLANAR, ChannelParams, Raster

__all__ = ["measure_channel"]

_BLOCK = 8
_LAP = 128
_LAP_SHARE = 4
_LAP_SLACK = 1024
_MAX_LANES = 20
_BLOCK_COST = (
    *(0, 87, 141, 184, 219, 249, 276, 299, 320, 339, 357, 373, 388, 401, 414, 426),
    *(438, 449, 459, 469, 478, 487, 495, 504, 511, 519, 526, 533, 540, 546, 552, 559),
    *(564, 570, 576, 581, 586, 591, 596, 601, 606, 610, 615, 619, 624, 628, 632, 636),
    *(640, 644, 647, 651, 655, 658, 662, 665, 669, 672, 675, 678, 681, 685, 688, 691),
)
_LOG_COST = (
    *(0, 3, 6, 8, 11, 14, 17, 19, 22, 24, 27, 29, 32, 34, 37, 39),
    *(41, 44, 46, 48, 50, 52, 55, 57, 59, 61, 63, 65, 67, 69, 71, 73),
    *(75, 77, 79, 81, 82, 84, 86, 88, 90, 91, 93, 95, 97, 98, 100, 102),
    *(103, 105, 107, 108, 110, 111, 113, 115, 116, 118, 119, 121, 122, 124, 125, 127),
)


def block_cost(total: int) -> int:
    """Estimate, in 1/16 bit, what eight residuals take whose sizes have this sum."""
    if total < 64:
        return _BLOCK_COST[total]
    n = total.bit_length() - 1
    return 128 * n + _LOG_COST[((total << 6) >> n) & 63] - 72


class _Lane:
    """One choice on its way.

    Attributes:
        cost: of all whole blocks so far.
        behind: once it gave up, by how much it would lose.
    """

    def __init__(
        self, reference: list[int] | None, params: ChannelParams, delta: int, raster: Raster
    ) -> None:
        near = reference if params.reference >= 0 else None
        self._walk = Walk(near, params, delta, raster)
        self._size = 1 << (13 + params.start)
        self._total = self.cost = self.behind = 0

    def run(self, samples: Sequence[int]) -> None:
        """Go on with these samples."""
        walk, t = self._walk, len(self._walk.recon)
        for sample in samples:
            walk.expect()
            k = walk.nearest(sample)
            t += 1
            self._size += ((abs(k) << 16) - self._size) >> min((t + 1).bit_length() - 1, 4)
            walk.take(k, self._size)
            self._total += abs(k)
            if t % _BLOCK == 0:
                self.end_block()

    def end_block(self) -> None:
        """Count what the last few residuals cost."""
        self.cost += block_cost(self._total)
        self._total = 0


def measure_channel(
    samples: list[int],
    reference: list[int] | None,
    choices: Sequence[ChannelParams],
    delta: int,
    raster: Raster,
) -> list[int]:
    """Estimate, in 1/16 bit, what one channel takes with each choice, parameters aside.

    Args:
        samples: the samples.
        reference: reconstruction of the reference, for the choices that have one.
        choices: parameters; neighbours in this list compete, if both or none of them filter.
        delta: odd step of the residual.
        raster: the pictures' size.
    """
    costs = []
    for _, group in groupby(enumerate(choices), key=_kind):
        fellows = [_Lane(reference, params, delta, raster) for _, params in group]
        for first in range(0, len(fellows), _MAX_LANES):
            lanes = fellows[first : first + _MAX_LANES]
            _race(lanes, samples)
            costs += [lane.cost for lane in lanes]
    return costs


def _kind(choice: tuple[int, ChannelParams]) -> tuple[bool, int]:
    """Equal for neighbours that compete."""
    number, params = choice
    return params.filter > 0, number if params.base == PLANAR else -1


def _race(lanes: Sequence[_Lane], samples: list[int]) -> None:
    running = list(lanes)
    n_laps = -(-len(samples) // _LAP)
    for lap in range(n_laps):
        if lap:
            best = min(lane.cost for lane in running)
            most = best + (best >> _LAP_SHARE) + _LAP_SLACK
            for lane in running:
                if lane.cost > most:
                    lane.behind = (lane.cost - best) // lap * n_laps
            running = [lane for lane in running if not lane.behind]
        for lane in running:
            lane.run(samples[lap * _LAP : (lap + 1) * _LAP])
    for lane in running:
        lane.end_block()
    best = min(lane.cost for lane in running)
    for lane in lanes:
        if lane.behind:
            lane.cost = best + lane.behind
