"""Steering: a step for each frame of a lossy stream, so that rate or noise keeps to a course.

::

    target ──► course: how much the frames so far may have cost in all, low .. middle .. high
    frame ───► step that a running estimate asks for ──► its true cost ──► on course? keep it
                                                                └─► off? search a step that is on

The estimate moves slowly, so most frames share a step or nearly do; the corridor is what holds the
promise, at every frame. All of it is causal and takes constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError
from edgeae.runtime.bundle import Bundle, read_arrays
from edgeae.runtime.latent_prior import encode_latents, step_condition
from edgeae.runtime.transform import symbolize, synthesise
from edgeae.tasks.fine import fine_delta

__all__ = [
    "RAMP_FRAMES",
    "Course",
    "NoiseCourse",
    "Outlook",
    "PlannedSteps",
    "RateCourse",
    "Steering",
    "check_target",
    "finest_step",
    "finite_part",
    "planned_step",
]

Samples = NDArray[Any]
Decode = Callable[[], list[Samples]]

_RATE_TOLERANCE = 0.015  # of the target; the promise is 2 %
_NOISE_LOW, _NOISE_HIGH = 10**-0.04, 10**-0.005  # 0.4 to 0.05 dB better than asked for
RAMP_FRAMES = 32
"""Frames over which a live stream makes up for its header."""
_HORIZON_FRAMES = 16  # frames over which a live stream makes up for a surplus
_MEMORY = 0.125  # weight of the newest frame in the estimate
_STAY = 0.06  # a step is kept until it is off by this much, as a logarithm
_TRIES = 9
_KNEE = 1.03  # noise at a step that is as good as the finest, over the noise at that
_RATE_SLACK, _SNR_SLACK_DB = 1.5, 6.0  # how far beyond a bundle's range another signal's may reach


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of a signal that lies there as a whole, see :mod:`edgeae.tasks.survey`.

    Attributes:
        n_samples: of all channels.
        step: for a target of noise the finer of the two steps that the frames take in turn.
        share: of the frames that take the next coarser one.
        snr_db: what that comes to.
    """

    n_samples: int
    step: int | None = None
    share: float = 0.0
    snr_db: float = math.nan


class Course(Protocol):
    """What the frames of a stream may cost together."""

    slope: float
    """Logarithm of the cost over logarithm of the step, roughly."""

    def meet(self, block: Samples) -> None:
        """Learn of a block before its frame is coded."""

    def cost(self, block: Samples, decode: Decode, n_bytes: int) -> float:
        """What a frame of so many bytes costs, that decodes as it is told."""

    def allowed(self, n_samples: int) -> tuple[float, float]:
        """Middle and half width of the corridor, the total after so many samples."""

    def reached(self, n_samples: int, total: float) -> float:
        """What the total comes to in the target's unit."""


class RateCourse:
    """Bits of all frames and the header: a rate times the samples.

    Args:
        rate: bits per sample.
        overhead_bits: of the stream's header and end.
        ramp: samples over which a live stream makes up for these.
        n_total: samples of the whole signal, where it is known.
    """

    slope = -0.75

    def __init__(self, rate: float, *, overhead_bits: int, ramp: int, n_total: int | None) -> None:
        self._rate, self._overhead, self._n_total = rate, overhead_bits, n_total
        self._ramp = max(1, ramp if self._n_total is None else self._n_total)

    def meet(self, block: Samples) -> None:
        """A rate asks for no more than the number of samples."""

    def cost(self, block: Samples, decode: Decode, n_bytes: int) -> float:  # noqa: ARG002
        """Bits."""
        return 8.0 * n_bytes

    def allowed(self, n_samples: int) -> tuple[float, float]:
        """The rate times the samples, less the header's share."""
        share = self._overhead * min(1.0, n_samples / self._ramp)
        width = _RATE_TOLERANCE * self._rate * (self._n_total or n_samples)
        return self._rate * n_samples - share, width

    def reached(self, n_samples: int, total: float) -> float:
        """Bits per sample, the header's among them."""
        return (total + self._overhead) / n_samples if n_samples else math.nan


class NoiseCourse:
    """Squared error of all frames: the power of the samples so far over the ratio asked for.

    Args:
        snr_db: variance over mean squared error, at least.
        ramp: samples that the corridor is as wide for as if they had passed already.
    """

    slope = 1.3

    def __init__(self, snr_db: float, *, ramp: int) -> None:
        self._share, self._ramp = 10 ** (-snr_db / 10), ramp
        self._n_met, self._n_items, self._power = 0, 0, 0.0
        self._mean: Samples = np.zeros(())

    def meet(self, block: Samples) -> None:
        """Count a block's samples into the power so far."""
        x = finite_part(block)
        mean, power = x.mean(axis=0), float(np.sum((x - x.mean(axis=0)) ** 2))
        n, total = self._n_items, self._n_items + len(x)
        apart = mean - self._mean
        self._power += power + float(np.sum(apart**2)) * n * len(x) / total
        self._mean = self._mean + apart * (len(x) / total)
        self._n_items, self._n_met = total, self._n_met + x.size

    def cost(self, block: Samples, decode: Decode, n_bytes: int) -> float:  # noqa: ARG002
        """Squared error; what is not finite comes back as it was."""
        (decoded,) = decode()
        return float(np.sum((finite_part(block) - finite_part(decoded)) ** 2))

    def allowed(self, n_samples: int) -> tuple[float, float]:
        """An equal share of the noise for every sample."""
        noise = self._power * self._share / max(self._n_met, 1)
        width = noise * (_NOISE_HIGH - _NOISE_LOW) / 2 * max(n_samples, self._ramp)
        return noise * (_NOISE_HIGH + _NOISE_LOW) / 2 * n_samples, width

    def reached(self, n_samples: int, total: float) -> float:
        """dB, over the power of the samples so far."""
        power = self._power if n_samples else math.nan
        return 10 * math.log10(power / total) if total and power else math.inf


def finite_part(x: Samples) -> NDArray[np.float64]:
    """Samples in float64, zero where they are NaN or infinite: these travel as they are."""
    wide: NDArray[np.float64] = x.astype(np.float64)
    return wide if x.dtype.kind != "f" else np.where(np.isfinite(wide), wide, 0.0)


class Steering:
    """Chooses the steps of a stream's frames, one after the other.

    Args:
        course: what the frames may cost.
        low, high: the steps that the bundle takes.
        start: the step to try first.

    Attributes:
        n_samples: of all frames so far.
        total: what they cost.
    """

    def __init__(self, course: Course, *, low: int, high: int, start: int) -> None:
        self.course = course
        self._low, self._high, self._step = low, high, start
        self._level: float | None = None
        self._chosen = start, 0.0
        self.n_samples, self.total = 0, 0.0

    @property
    def reached(self) -> float:
        """What the frames so far come to: bits per sample, or dB."""
        return self.course.reached(self.n_samples, self.total)

    def meet(self, block: Samples) -> None:
        """Learn of a block before its frame is coded."""
        self.course.meet(block)

    def choose(self, n_samples: int, cost: Callable[[int], float]) -> int:
        """The step of the next frame; ``cost`` tells what it costs at a step."""
        middle, width = self.course.allowed(self.n_samples + n_samples)
        middle -= self.total
        known: dict[int, float] = {}

        def once(step: int) -> float:
            if step not in known:
                known[step] = cost(step)
            return known[step]

        if self._level is None:
            step = self._search(once, middle, 0.0, self._step)
        else:
            step = self._preferred(n_samples)
            off = once(step) - middle
            if abs(off) > width:
                step = self._search(once, middle + math.copysign(width, off) / 2, width / 2, step)
        self._chosen = step, known[step]
        return step

    def took(self, n_samples: int) -> None:
        """Count the frame that was chosen last: it was sent."""
        step, cost = self._chosen
        self.n_samples += n_samples
        self.total += cost
        if cost <= 0:
            return
        level = math.log(cost / n_samples) - self.course.slope * math.log(step)
        self._level = level if self._level is None else self._level
        self._level += _MEMORY * (level - self._level)

    def _preferred(self, n: int) -> int:
        """The step at which the next frames, as dear as the last ones, come back to the middle."""
        assert self._level is not None
        ahead = _HORIZON_FRAMES * n
        now, later = (self.course.allowed(self.n_samples + k)[0] for k in (0, ahead))
        fair = max(later - now, 1e-300) / ahead
        asked = min(max((later - self.total) / ahead, 0.5 * fair), 2.0 * fair)
        power = (math.log(asked) - self._level) / self.course.slope
        step = math.exp(min(max(power, 0.0), 20.0))
        if abs(math.log(step / self._step)) > _STAY:
            self._step = min(max(round(step), self._low), self._high)
        return self._step

    def _search(self, cost: Callable[[int], float], aim: float, width: float, step: int) -> int:
        """The step whose cost is nearest to ``aim``, or within ``width`` of it."""
        slope = self.course.slope
        low, high = self._low, self._high
        best, best_gap = step, math.inf
        for _ in range(_TRIES):
            found = cost(step)
            gap = abs(found - aim)
            if gap < best_gap:
                best, best_gap = step, gap
            if gap <= width or found == aim:
                break
            if (found > aim) == (slope < 0):
                low = step + 1
            else:
                high = step - 1
            if low > high:
                break
            ratio = max(aim, 1e-300) / max(found, 1e-300)
            guess = step * math.exp(min(max(math.log(ratio) / slope, -2.0), 2.0))
            # never nearer to an end of what is left than a tenth: a poor slope costs few tries
            rim = (high - low) // 10
            step = min(max(round(guess), low + rim), high - rim)
        return best


class PlannedSteps:
    """Two neighbouring steps in turn, as a survey of the whole signal found them."""

    def __init__(self, outlook: Outlook) -> None:
        self._outlook, self._n_frames = outlook, 0

    @property
    def reached(self) -> float:
        """dB of the whole stream."""
        return self._outlook.snr_db

    def meet(self, block: Samples) -> None:
        """All of them were met."""

    def choose(self, n_samples: int, cost: Callable[[int], float]) -> int:  # noqa: ARG002
        """The next step."""
        return planned_step(self._outlook, self._n_frames)

    def took(self, n_samples: int) -> None:  # noqa: ARG002
        """Count a frame."""
        self._n_frames += 1


def planned_step(outlook: Outlook, number: int) -> int:
    """The step of a frame by its number: the coarser one as often as the share says."""
    assert outlook.step is not None
    coarser = math.floor((number + 1) * outlook.share) - math.floor(number * outlook.share)
    return outlook.step + coarser


def finest_step(bundle: Bundle) -> int:
    """The largest step that is as good as the smallest, but for a few percent of the noise.

    Below it a net's own error is all that is left, and only the rate still grows.
    """
    net = bundle.net
    assert net is not None
    if "golden.npz" not in bundle.files:
        return net.min_step
    golden = read_arrays(bundle.files["golden.npz"], "golden.npz")

    def noise(step: int) -> float:
        return _golden_noise(bundle, golden, step)

    best, least = net.min_step, noise(net.min_step)
    for eighth in range(1, 33):
        step = min(round(net.min_step * 2 ** (eighth / 4)), net.default_step)
        if noise(step) > _KNEE * least + 1e-9:
            break
        best = step
    return best


def _golden_noise(bundle: Bundle, golden: dict[str, NDArray[Any]], step: int) -> float:
    """Mean squared error of the golden signal, grid steps: by the window code, or below that."""
    x = golden["signal"]
    (recon,) = synthesise(bundle, [symbolize(golden["latent"], step)], step, [x.shape[1]])
    noise = float(np.mean((x - recon.astype(np.float64)) ** 2))
    delta = fine_delta(bundle, step)
    return noise if delta is None else min(noise, (delta * delta - 1) / 12)


def check_target(bundle: Bundle, *, rate: float | None = None, snr: float | None = None) -> None:
    """Refuse a target that no step of the bundle comes near, measured on its golden signal.

    Raises:
        ConfigError: it says the range.
    """
    net, prior = bundle.net, bundle.latent_prior
    if net is None or prior is None or "golden.npz" not in bundle.files:
        return
    golden = read_arrays(bundle.files["golden.npz"], "golden.npz")
    x, ends = golden["signal"], []
    for step in (net.max_step, net.min_step):
        if rate is not None:
            symbols = symbolize(golden["latent"], step)
            (payload,) = encode_latents(prior, [symbols], step_condition(step))
            ends.append(8 * len(payload) / x.size)
        else:
            power = float(np.mean((x - x.mean(axis=(0, 1))) ** 2))
            noise = max(_golden_noise(bundle, golden, step), 1e-9)
            ends.append(10 * math.log10(max(power, 1e-9) / noise))
    low, high = ends
    if rate is not None and not low / _RATE_SLACK <= rate <= high * _RATE_SLACK:
        raise ConfigError(
            f"target_rate is {rate:g} bit/sample; bundle {bundle.name!r} codes its kind of signal "
            f"at {low:.2g} to {high:.2g} bit/sample: choose a rate in between"
        )
    if snr is not None and not low - _SNR_SLACK_DB <= snr <= high + _SNR_SLACK_DB:
        raise ConfigError(
            f"target_snr is {snr:g} dB; bundle {bundle.name!r} codes its kind of signal at "
            f"{low:.0f} to {high:.0f} dB: choose one in between, or max_error for more"
        )
