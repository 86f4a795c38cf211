"""Short-time Fourier transform beside a mask net: samples to features, masks to samples.

::

    samples ─ window, FFT ─ power per band ─ log2 in sixteenths ─ less the running level ─► features
    mask ─ per bin times the same spectrum ─ inverse FFT, window, overlap-add ─► samples

Everything after the FFT is integer arithmetic up to the mask, so the features hang on no library's
logarithm. Frames are worked on one by one, elementwise or by numpy's row-wise FFT, so how a stream
is cut never shows. A mask of ones gives the input back, ``delay`` samples later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError

__all__ = ["StftFrontEnd", "StftSpec"]

Floats = NDArray[np.float64]

LOG_STEPS = 16  # feature steps per doubling of the power
_LADDER = np.exp2(np.arange(1, LOG_STEPS) / LOG_STEPS - 1.0)  # mantissas lie in 0.5..1
_LEVEL_BITS = 16  # fractional bits of the running level


@dataclass(frozen=True, kw_only=True)
class StftSpec:
    """Shape of the transform, as a manifest states it.

    Attributes:
        window: samples of a frame; its square-root Hann window is used on the way in and out.
        hop: samples between frames, half a window.
        fine: bins that are a band of their own, from 0 Hz up.
        double: bands of two bins above them; bands of four bins take the rest.
        floor: power, of samples in -1..1, that silence has (added to every band).
        level_frames: frames over which the running level is taken.
        peak: largest magnitude of a feature.
        mask_exponent: a mask's integers are worth ``2**-mask_exponent``; one is the most.
    """

    window: int = 512
    hop: int = 256
    fine: int = 65
    double: int = 32
    floor: float = 1e-7
    level_frames: int = 64
    peak: int = 511
    mask_exponent: int = 8

    def __post_init__(self) -> None:
        """Check that it can be computed."""
        if self.hop < 1 or self.window != 2 * self.hop:
            raise ModelError(
                f"the window has {self.window} samples and the hop {self.hop}: a window is two hops"
            )
        rest = self.n_bins - self.fine - 2 * self.double
        if self.fine < 1 or self.double < 0 or rest < 0 or rest % 4:
            raise ModelError(
                f"{self.n_bins} bins cannot be {self.fine} single, {self.double} double and "
                "the rest fourfold bands"
            )
        if not (self.floor > 0 and self.level_frames > 0 and self.peak > 0):
            raise ModelError("floor, level_frames and peak must be positive")
        if not 0 <= self.mask_exponent <= 16:
            raise ModelError(f"mask_exponent is {self.mask_exponent}, expected 0 to 16")

    @property
    def n_bins(self) -> int:
        """Bins of a spectrum, F."""
        return self.hop + 1

    @property
    def n_bands(self) -> int:
        """Bands B: features of a frame, and values of a mask."""
        return self.fine + self.double + (self.n_bins - self.fine - 2 * self.double) // 4

    @property
    def delay(self) -> int:
        """Samples by which the output of whole hops lags the input."""
        return self.window - self.hop

    @cached_property
    def band_of_bin(self) -> NDArray[np.intp]:
        """Band of each bin [F]."""
        widths = np.full(self.n_bands, 4)
        widths[: self.fine] = 1
        widths[self.fine : self.fine + self.double] = 2
        return np.repeat(np.arange(self.n_bands), widths)

    @cached_property
    def taper(self) -> Floats:
        """Square root of the periodic Hann window, [window]: its squares, a hop apart, sum to 1."""
        return np.sin(np.pi * np.arange(self.window) / self.window)

    def to_json(self) -> dict[str, Any]:
        """The manifest's ``front_end``; :meth:`from_json` reads it back."""
        return {"kind": "stft", **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StftSpec:
        """Inverse of :meth:`to_json`.

        Raises:
            ModelError: another kind of front end, or fields that do not fit.
        """
        fields = dict(values)
        kind = fields.pop("kind", None)
        if kind != "stft":
            raise ModelError(f"the front end is {kind!r}; this version has 'stft'")
        known = cls.__dataclass_fields__
        for name, value in fields.items():
            wanted = (int, float) if name == "floor" else (int,)
            if name not in known or not isinstance(value, wanted) or isinstance(value, bool):
                raise ModelError(f"front_end.{name} is {value!r}: not a field of an stft")
        return cls(**fields)

    # -- frames, without a stream's state ---------------------------------------------------------
    def spectra(self, frames: Floats) -> NDArray[np.complex128]:
        """Spectra [..., F] of frames [..., window]."""
        return np.fft.rfft(np.ascontiguousarray(frames * self.taper))

    def power(self, spectra: NDArray[np.complex128]) -> Floats:
        """Power of each bin [..., F]; a sine of amplitude 1 has about 1."""
        power: Floats = spectra.real * spectra.real + spectra.imag * spectra.imag
        power *= (np.pi / self.window) ** 2
        return power

    def log_bands(self, power: NDArray[Any]) -> NDArray[np.int32]:
        """Log-power of each band [..., B] in sixteenths of an octave, floor(16 log2(power))."""
        a, b = self.fine, self.fine + 2 * self.double
        two, four = power[..., a:b], power[..., b:]
        bands = np.concatenate(
            [
                power[..., :a],
                (two[..., ::2] + two[..., 1::2]) * 0.5,
                ((four[..., ::4] + four[..., 1::4]) + (four[..., 2::4] + four[..., 3::4])) * 0.25,
            ],
            -1,
        )
        mantissa, exponent = np.frexp(bands + self.floor)
        steps = np.searchsorted(_LADDER, mantissa, side="right")
        return ((exponent - 1) * LOG_STEPS + steps).astype(np.int32)

    def features(
        self, logs: NDArray[np.int32], level: NDArray[np.int64], seen: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Log-powers less the running level, which is brought forward in place.

        The level is the mean over bands and frames: a plain mean at first, exponential after
        ``level_frames``. Frames of silence do not move it.

        Args:
            logs: [N, K, B], K frames.
            level: [N], in sixteenths of an octave times 2^16.
            seen: [N], frames that were not silence.

        Returns:
            float32 [N, B, K], whole numbers.
        """
        silence = int(np.floor(LOG_STEPS * np.log2(self.floor))) + 1
        means = (logs.sum(-1, dtype=np.int64) << _LEVEL_BITS) // self.n_bands
        at = np.empty(logs.shape[:2], np.int64)
        for k in range(logs.shape[1]):
            loud = means[:, k] > silence << _LEVEL_BITS
            seen += loud
            share = np.minimum(np.maximum(seen, 1), self.level_frames)
            level += np.where(loud, (means[:, k] - level) // share, 0)
            at[:, k] = level
        np.minimum(seen, self.level_frames, out=seen)
        out = logs - (at >> _LEVEL_BITS)[:, :, None]
        np.clip(out, -self.peak, self.peak, out=out)
        return np.ascontiguousarray(out.transpose(0, 2, 1), dtype=np.float32)

    def first_level(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Level and frames seen of N streams before their first sample."""
        silent = int(np.floor(LOG_STEPS * np.log2(self.floor)))
        return np.full(n, silent << _LEVEL_BITS, np.int64), np.zeros(n, np.int64)

    def bins(self, mask: NDArray[np.float32]) -> Floats:
        """A mask of integers [N, B, K] as factors per bin [N, K, F], at most 1."""
        scaled = np.minimum(mask.astype(np.float64) * 2.0**-self.mask_exponent, 1.0).transpose(
            0, 2, 1
        )
        return np.ascontiguousarray(scaled[:, :, self.band_of_bin])


class StftFrontEnd:
    """The transform of N streams at once, with its state.

    Example:
        >>> front = StftFrontEnd(StftSpec(), streams=1)
        >>> x = np.sin(np.arange(1024.0))[None]
        >>> features = front.analyse(x)
        >>> features.shape
        (1, 129, 4)
        >>> out = front.synthesise(np.full((1, 129, 4), 256, np.float32))
        >>> bool(np.abs(out[:, 256:] - x[:, :-256]).max() < 1e-12)
        True
    """

    def __init__(self, spec: StftSpec, streams: int = 1) -> None:
        self.spec, self.streams = spec, streams
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        shape = (self.streams, self.spec.window - self.spec.hop)
        self._last = np.zeros(shape)
        self._tail = np.zeros(shape)
        self._level, self._seen = self.spec.first_level(self.streams)
        self._spectra: NDArray[np.complex128] | None = None

    def analyse(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Features of the next samples.

        Args:
            block: [N, T], samples in -1..1, T a multiple of the hop.

        Returns:
            float32 [N, B, T / hop].
        """
        spec = self.spec
        hops = np.concatenate([self._last, block], 1).reshape(self.streams, -1, spec.hop)
        self._last = hops[:, -1].copy()
        self._spectra = spec.spectra(np.concatenate([hops[:, :-1], hops[:, 1:]], 2))
        return spec.features(spec.log_bands(spec.power(self._spectra)), self._level, self._seen)

    def synthesise(self, mask: NDArray[np.float32]) -> Floats:
        """The masked samples of the block last analysed, ``spec.delay`` samples late.

        Args:
            mask: [N, B, K] of whole numbers, ``2**spec.mask_exponent`` being one.

        Returns:
            float64 [N, T].
        """
        spec = self.spec
        if self._spectra is None or mask.shape[2] != self._spectra.shape[1]:
            raise ValueError("a mask must follow the features that it is for")
        parts = np.fft.irfft(self._spectra * spec.bins(mask), spec.window) * spec.taper
        self._spectra = None
        heads, tails = parts[..., : spec.hop], parts[..., spec.hop :]
        before = np.concatenate([self._tail[:, None], tails[:, :-1]], 1)
        self._tail = tails[:, -1].copy() if tails.shape[1] else self._tail
        out: Floats = (heads + before[:, : heads.shape[1]]).reshape(self.streams, -1)
        return out

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of what the next block hangs on; between ``synthesise`` and ``analyse`` only."""
        return {
            "last": self._last.copy(),
            "tail": self._tail.copy(),
            "level": self._level.copy(),
            "seen": self._seen.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state of :meth:`state`.

        Raises:
            ModelError: it is not the state of such a front end.
        """
        mine = self.state()
        for name, now in mine.items():
            value = state.get(name)
            if value is None or value.shape != now.shape or value.dtype != now.dtype:
                found = "missing" if value is None else f"{value.dtype} {list(value.shape)}"
                raise ModelError(
                    f"front end state {name!r} is {found}, expected {now.dtype} {list(now.shape)}"
                )
        self._last, self._tail = state["last"].copy(), state["tail"].copy()
        self._level, self._seen = state["level"].copy(), state["seen"].copy()
        self._spectra = None
