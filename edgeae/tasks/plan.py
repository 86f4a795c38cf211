"""Decisions before the first frame: which grid, which quantizer step, which header.

Everything a decoder needs follows from the header, so these decisions may be as clever as they
like: a decoder never repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.header import Profile, Promise, StreamHeader
from edgeae.errors import ConfigError, ModelError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.signal.grid import NEAR_ULPS, Grid, GridSpec, detect_grid, fallback_grid
from edgeae.signal.grid_most import most_grid
from edgeae.signal.lattice import Lattice
from edgeae.signal.ulps import ulps_beside
from edgeae.tasks.codec import lossy_delta, lossy_rmse
from edgeae.tasks.search import worth_of_a_bit

__all__ = [
    "GridChoice",
    "GridLike",
    "StreamOptions",
    "choose_grid",
    "default_ndim",
    "index_bound",
    "lossy_deltas",
    "make_header",
    "parse_lattice",
    "parse_profile",
]

GridLike = Grid | GridSpec | Sequence[Grid | GridSpec]
"""One grid for all channels, or one for each; as plain numbers it is (num, den)."""

_MAX_INDEX_BOUND = (1 << 29) - 2
_FILE_ITEMS = 1 << 16
_FILE_IMAGES = 64
_STEERED_ITEMS = 1 << 14
_RADIO_ITEMS = 1 << 10
_FRAME_SAMPLES = 1 << 20
_LEVELS = 16
"""A lossy stream leaves the model's grid only for one that this many values show."""
MAX_EFFORT = 16
_NEAR = 0.12  # how far, as a share, a step may lie from the one that was asked for
_ERROR_PER_BIT = math.log(2) / 6  # squared error that a bit saves, of a quantizer of step 1
RADIO_HEAD_BYTES = 16
"""An upper limit of what a radio frame of one item adds to its samples."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What a stream should be, checked on creation.

    Attributes:
        max_error: bound E on |x - x_hat|, in the signal's units.
        lossless: every sample comes back bit for bit. With neither, the stream is lossy.
        step: step of the latents' quantizer; None takes the bundle's default.
        target_rate: bits per sample that a lossy stream comes to; each frame gets its own step.
        target_snr: dB that it comes to, likewise.
        profile: ``file`` or ``radio``.
        frame_length: items per frame; None takes 65,536 time steps (16,384 with a target) or 64
            images in a file, 1,024 or 1 by radio.
        max_packet: largest radio frame in bytes; frames are halved until they fit.
        lattice: the signal's grids; None looks for them in the samples.
        rate_hz: sampling rate, carried along; None takes the bundle's.
        metadata: JSON object, carried along.
        effort: rounds of trying other symbols for each image of a lossy stream.

    Raises:
        ConfigError: an option or a combination makes no sense.
    """

    max_error: float | None = None
    lossless: bool = False
    step: int | None = None
    target_rate: float | None = None
    target_snr: float | None = None
    profile: Profile = Profile.FILE
    frame_length: int | None = None
    max_packet: int | None = None
    lattice: Lattice | None = None
    rate_hz: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    effort: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.effort <= MAX_EFFORT:
            raise ConfigError(f"effort is {self.effort}; it must be 0 to {MAX_EFFORT}")
        if self.max_error is not None:
            if self.lossless:
                raise ConfigError("max_error and lossless exclude each other: choose one")
            bound = float(self.max_error)
            if not (math.isfinite(bound) and bound >= 0):
                raise ConfigError(f"max_error is {bound}; it must be finite and not negative")
            object.__setattr__(self, "max_error", bound)
        self._check_targets()
        if self.max_packet is not None and self.profile is not Profile.RADIO:
            raise ConfigError("max_packet goes with profile radio")

    def _check_targets(self) -> None:
        targets = {"target_rate": self.target_rate, "target_snr": self.target_snr}
        given = {name: value for name, value in targets.items() if value is not None}
        for name, value in given.items():
            if not math.isfinite(value) or (name == "target_rate" and value <= 0):
                raise ConfigError(f"{name} is {value}; it must be finite, and a rate positive")
            if self.lossless or self.max_error is not None:
                other = "lossless" if self.lossless else "max_error"
                raise ConfigError(
                    f"{name} turns the quantizer of a lossy stream, and {other} fixes what every "
                    "sample may lose, whatever that costs: leave one of them out"
                )
            if self.step is not None:
                raise ConfigError(f"{name} chooses the step: leave step out")
        if len(given) == 2:
            raise ConfigError("target_rate and target_snr exclude each other: choose one")

    @property
    def steered(self) -> bool:
        """Whether each frame gets its own step, to come to a target."""
        return self.target_rate is not None or self.target_snr is not None

    @property
    def promise(self) -> Promise:
        """What the stream guarantees."""
        if self.lossless:
            return Promise.LOSSLESS
        return Promise.LOSSY if self.max_error is None else Promise.MAX_ERROR


def parse_profile(value: Profile | str) -> Profile:
    """A profile by name, or a ConfigError."""
    try:
        return Profile(value)
    except ValueError:
        raise ConfigError(f"profile is {value!r}: choose file or radio") from None


def parse_lattice(value: GridLike | None) -> Lattice | None:
    """Grids as a user gives them, or a ConfigError."""
    if value is None:
        return None
    if isinstance(value, Grid):
        return Lattice((value,))
    try:
        if isinstance(value, tuple) and all(isinstance(part, int) for part in value):
            return Lattice((Grid(*value),))
        grids = [item if isinstance(item, Grid) else Grid(*item) for item in value]  # type: ignore[misc]
        return Lattice.of([grid.spec for grid in grids])
    except (TypeError, IndexError) as error:
        raise ConfigError(f"grid is {value!r}: give (num, den), or one pair per channel") from error


@dataclass(frozen=True, kw_only=True)
class GridChoice:
    """The grids to code on, and how far indices may then be off.

    Attributes:
        lattice: the grids.
        bounds: per channel the largest index error e that keeps ``max_error``; 0 without one.
        nominals: what e would be if floats did not round. The check on every frame is strict:
            |x - x_hat| <= max_error in float64, and samples that stand for 0.010 and 0.001 may
            differ by 0.009000000000000001; so a bound of 0.009 allows 8 steps of 0.001, not 9.
            Grids of integers and of powers of two have no such loss.
    """

    lattice: Lattice
    bounds: tuple[int, ...] = (0,)
    nominals: tuple[int, ...] = (0,)


def choose_grid(
    samples: NDArray[Any], bundle: Bundle | None, options: StreamOptions, *, whole: bool = False
) -> GridChoice:
    """Choose the grid of every channel.

    The bundle's grid comes first, for its nets know signals in that unit; then one found in the
    samples; then, for a bound, one that is fine enough.

    Args:
        samples: the signal, or its beginning, as a user gives it: [T], [T, C], [N, H, W, (C)].
        bundle: the model, if any.
        options: the promise, and the grid if it is given.
        whole: whether ``samples`` is all of the signal, so that a common divisor can be trusted.
    """
    channels = samples.shape[-1] if samples.ndim in (2, 4) else 1
    rows = samples.reshape(-1, channels)
    given = options.lattice
    if given is not None and len(given.grids) not in (1, channels):
        raise ConfigError(f"{len(given.grids)} grids for {channels} channel(s)")
    own = Lattice.of(bundle.signal.grids) if bundle is not None else None
    grids, bounds, nominals = [], [], []
    for c in range(channels):
        part = rows[:, c]
        if given is not None:
            grid = given.grids[c % len(given.grids)]
            on_grid = _share_on(grid, part)[0] == 1.0
        else:
            known = None if own is None else own.grids[c % len(own.grids)]
            grid, on_grid = _channel_grid(part, known, options, whole)
        grids.append(grid)
        if options.max_error is not None:
            allowed, nominal = index_bound(grid, options.max_error, part, on_grid=on_grid)
            bounds.append(allowed)
            nominals.append(nominal)
    return GridChoice(
        lattice=Lattice.of([grid.spec for grid in grids]),
        bounds=tuple(bounds) or (0,),
        nominals=tuple(nominals) or (0,),
    )


def _channel_grid(
    samples: NDArray[Any], own: Grid | None, options: StreamOptions, whole: bool
) -> tuple[Grid, bool]:
    """A grid for one channel, and whether all of its finite samples lie on it."""
    seek_coarser = whole and options.promise is Promise.LOSSLESS
    if samples.dtype.kind in "iu":
        own = own if own is not None and own.den == 1 and _share_on(own, samples)[1] else None
        found = detect_grid(samples) if seek_coarser or (whole and own is None) else None
        return _coarser(own or Grid(1, 1), found), True
    share, exact = 0.0, False
    if own is not None:
        own, share, exact = _best_reading(own, samples)
        if exact and not seek_coarser:
            return own, True
    found = detect_grid(samples)
    if own is not None and exact:
        return _coarser(own, found), True
    if own is not None and share == 1.0:  # near it; perhaps another spelling of the step is exact
        same = found is not None and math.isclose(found.step, own.step, rel_tol=1e-6)
        return found if found is not None and same else own, True
    if own is not None and options.promise is Promise.LOSSY and found is not None:
        levels = np.unique(found.to_index(samples[np.isfinite(samples)])[0]).size
        if levels < _LEVELS:  # a grid for two or three values is none that the nets could know
            return own, False
    if found is not None:
        return found, True
    if own is not None and (
        options.promise is Promise.LOSSY
        or share > 0.5
        or (options.max_error is not None and options.max_error >= 2.5 * own.step)
    ):
        return own, False
    if options.max_error:
        return _grid_for_bound(samples, options.max_error), False
    found = most_grid(samples) if options.promise is Promise.LOSSLESS else None
    return found or Grid(1, 1), False


def _coarser(own: Grid, found: Grid | None) -> Grid:
    """A model's grid, unless all samples lie on a much coarser one: they are in another unit."""
    return found if found is not None and found.step > 1.5 * own.step else own


def _best_reading(own: Grid, samples: NDArray[Any]) -> tuple[Grid, float, bool]:
    """A model's grid as these floats show it; the share of them on it; whether all are, exactly."""
    readings = [own]
    if samples.dtype == np.float64:
        readings.append(replace(own, single=True))
        if own.as_decimal is not None:
            readings.append(replace(own, parsed=True))
    best = own, 0.0, False
    for grid in readings:
        share, exact = _share_on(grid, samples)
        if exact or share > best[1]:
            best = grid, share, exact
        if exact:
            break
    return best


def _share_on(grid: Grid, samples: NDArray[Any]) -> tuple[float, bool]:
    """Share of the finite samples on a grid or near it, 1 where there are none; if all, exactly."""
    finite = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
    if finite.size == 0:
        return 1.0, True
    index, same = grid.to_index(finite)
    same |= (finite == 0) & (index == 0)
    exact = bool(same.all())
    if samples.dtype.kind == "f" and not exact:
        same |= np.abs(ulps_beside(finite, grid.to_values(index, finite.dtype))) <= NEAR_ULPS
    return float(np.mean(same)), exact


def _grid_for_bound(samples: NDArray[Any], max_error: float) -> Grid:
    """A power-of-two grid well below the bound; what it cannot index will be exceptions."""
    finite = samples[np.isfinite(samples)].astype(np.float64)
    peak = float(np.max(np.abs(finite), initial=0.0))
    try:
        return fallback_grid(max_error, min(peak, max_error * (1 << 22)))
    except ConfigError:
        return Grid(1, 1)  # a bound of the order 1e-20 or 1e+20: raw frames will serve


def index_bound(
    grid: Grid, max_error: float, samples: NDArray[Any], *, on_grid: bool
) -> tuple[int, int]:
    """How far indices may be off, strictly and nominally: see ``GridChoice``."""
    steps = Fraction(max_error) * grid.den / grid.num
    nominal = grid.index_bound(max_error, on_grid=on_grid)
    steps -= Fraction(grid.resolution(samples)) * grid.den / grid.num
    if not on_grid:
        steps -= Fraction(1, 2)
    return min(max(math.floor(steps), 0), _MAX_INDEX_BOUND), min(max(nominal, 0), _MAX_INDEX_BOUND)


def default_ndim(channels: int, image_size: tuple[int, int] | None) -> int:
    """Axes of decoded samples where the header's metadata says nothing: no axis for one channel."""
    return (1 if image_size is None else 3) + (channels > 1)


def make_header(
    samples: NDArray[Any],
    bundle: Bundle | None,
    options: StreamOptions,
    *,
    channels: int,
    image_size: tuple[int, int] | None,
    ndim: int,
    choice: GridChoice,
) -> StreamHeader:
    """The header of a stream that begins with ``samples``.

    Raises:
        ConfigError: the promise or the step does not go with the bundle.
        ModelError: the bundle cannot give the promise.
    """
    promise = options.promise
    net = None if bundle is None else bundle.net
    deltas: tuple[int, ...]
    if promise is Promise.LOSSY:
        if bundle is None or net is None:
            raise ConfigError(
                "lossy coding needs a bundle with a window code: give max_error or lossless"
            )
        step = _latent_step(bundle, options, ())
        deltas = lossy_deltas(bundle, step)
    else:
        _require_exact(bundle, promise)
        deltas = tuple(2 * bound + 1 for bound in choice.bounds)
        step = _latent_step(bundle, options, deltas)
    metadata = dict(options.metadata)
    frame_length = options.frame_length
    if frame_length is None:
        frame_length = _default_length(options, channels, image_size)
    if ndim != default_ndim(channels, image_size):
        metadata["ndim"] = ndim
    rate_hz = options.rate_hz
    if rate_hz is None and bundle is not None:
        rate_hz = bundle.signal.rate_hz
    return StreamHeader(
        dtype=samples.dtype.name,
        channels=channels,
        frame_length=frame_length,
        image_size=image_size,
        grids=choice.lattice.specs,
        rate_hz=rate_hz,
        promise=promise,
        deltas=deltas,
        max_error=options.max_error,
        step=step,
        fingerprint=b"" if bundle is None else bundle.fingerprint,
        exact=bundle is None or bundle.manifest.exact,
        profile=options.profile,
        metadata=metadata,
    )


def lossy_deltas(bundle: Bundle, step: int) -> tuple[int, ...]:
    """Steps of the frames of a lossy stream that are coded without the window code.

    Those are frames that it misses; where there is a pixel prior also all that this prior codes
    for less. Its step is the one at which a bit buys as much as with the window code.
    """
    worth = worth_of_a_bit(bundle, step)
    for prior, spec in zip(bundle.sample_priors, bundle.sample_prior_ranges, strict=True):
        if isinstance(prior, PixelPrior) and worth is not None:
            delta = _fitting(math.sqrt(worth / _ERROR_PER_BIT), prior.span)
            return (min(max(delta, spec.delta_min), spec.delta_max),)
    return tuple(lossy_delta(limit) for limit in lossy_rmse(bundle.net, step))


def _fitting(delta: float, span: int) -> int:
    """An odd step near ``delta`` that divides the span of levels best: its ends are common."""
    low, high = (max(round((delta * by - 1) / 2), 0) for by in (1 - _NEAR, 1 + _NEAR))
    odd = range(2 * low + 1, 2 * high + 2, 2)
    return min(odd, key=lambda d: (abs(span / d - round(span / d)), abs(d - delta)))


def _require_exact(bundle: Bundle | None, promise: Promise) -> None:
    if bundle is None or bundle.exact:
        return
    why = "says it is not exact"
    if bundle.manifest.exact:
        why = f"failed its self-test on this machine ({bundle.self_test()[0]})"
    raise ModelError(
        f"bundle {bundle.name!r} {why}, so its nets cannot promise {promise.value}: code without "
        "a bundle, for the classical mode keeps this promise, or choose lossy"
    )


def _latent_step(bundle: Bundle | None, options: StreamOptions, deltas: tuple[int, ...]) -> int:
    net = None if bundle is None else bundle.net
    if bundle is None or net is None:
        if options.step is not None:
            raise ConfigError("step goes with a bundle that has a window code")
        return 0
    if options.step is not None:
        if not net.min_step <= options.step <= net.max_step:
            raise ConfigError(
                f"step is {options.step}; bundle {bundle.name!r} takes "
                f"{net.min_step}..{net.max_step}"
            )
        return options.step
    if options.promise is Promise.LOSSY:
        return net.default_step
    for spec in bundle.sample_prior_ranges:
        if spec.has_code and spec.delta_min <= min(deltas) and max(deltas) <= spec.delta_max:
            return spec.step or net.default_step
    return 0


def _default_length(
    options: StreamOptions, channels: int, image_size: tuple[int, int] | None
) -> int:
    height, width = image_size or (1, 1)
    cap = max(1, _FRAME_SAMPLES // (channels * height * width))
    if options.profile is Profile.RADIO:
        return min(_RADIO_ITEMS if image_size is None else 1, cap)
    if options.steered and image_size is None:
        return min(_STEERED_ITEMS, cap)
    return min(_FILE_ITEMS if image_size is None else _FILE_IMAGES, cap)
