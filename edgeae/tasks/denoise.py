"""Denoise streams block by block, in real time or from a file, with the same bits.

::

    block ─ scale, hold NaN ─ whole hops ─[ front end ]─ net with its state ─[ front end ]─
    ─ queue ─ scale back ─► block of the same length, ``delay_samples`` late

The net takes whole hops; what is left of a block waits for the next one. The queue starts with one
sample less than a hop, so that a block of any length, 0 and 1 too, gives as many samples as went in
and the delay is always the same. Nets are exact and the front end works frame by frame, so how a
stream is cut never shows in its bits.

Where a gain is to be measured, the first seconds are kept. When there are enough, the net forgets
them and runs through them once more, scaled: from there on every sample is what a denoiser gives
that was told the gain and the zero from the start, but for where it rests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeae.errors import ConfigError, ModelError, SignalError
from edgeae.runtime.bundle import Bundle, load
from edgeae.runtime.bundle_files import pack_arrays, read_arrays
from edgeae.runtime.denoise_net import StreamDenoiseNet, stream_net
from edgeae.runtime.stft import StftFrontEnd, StftSpec
from edgeae.tasks.denoise_level import LevelMeter, told_gain, told_zero
from edgeae.tasks.denoise_samples import DenoiserSamples, Form

__all__ = ["Denoiser", "FrontEnd", "check_rate", "denoise"]

_MAX_STREAMS = 1 << 16
_PIECE_HOPS = 256  # of a front end at once: more only takes memory
_RATE_TOLERANCE = 1e-3

Samples = NDArray[Any]


class FrontEnd(Protocol):
    """What stands between samples and net, with a state of its own."""

    def analyse(self, block: Samples) -> NDArray[np.float32]:
        """Features [N, F, K] of the next whole hops [N, T]."""

    def synthesise(self, mask: NDArray[np.float32]) -> Samples:
        """The samples [N, T] that the net's output for the last features gives."""

    def reset(self) -> None:
        """Forget the past."""

    def state(self) -> dict[str, Samples]:
        """Copies of what the next block hangs on."""

    def restore(self, state: Mapping[str, Samples]) -> None:
        """Go on from a state."""


class Denoiser:
    """Denoises one stream, or several in step, block by block.

    Sample t of the output is the estimate of sample t - ``delay_samples`` of the input. The first
    ``delay_samples`` samples are start-up and hold the signal's center.

    Args:
        bundle: a denoiser for streams, or where it lies.
        streams: how many streams, N. One stream takes blocks [T] or [T, C]; several take [N, T] or
            [N, T, C].
        rate_hz: of the signal, to be checked.
        gain: of series: what samples are multiplied by on the way in, and divided by on the way
            out, so that they are as strong as those that the net was trained on: 0.2 for a device
            of 1000 counts/mV where the net knows 200. ``"auto"`` measures it on the first four
            seconds of each stream, up to a power of two, and the zero with it; what comes out
            meanwhile is as without. A shorter stream, or one that is silent then, keeps its gain.
        zero: of series: the sample that stands for nothing, one or [C], going in and coming out;
            None takes the center that the net was trained on. With ``"auto"`` it is measured going
            in, and what comes out rests on that center, before and after.

    Attributes:
        delay_samples: by which the output lags.
        engine: what runs the net, ``native`` or ``onnxruntime``.

    Raises:
        ConfigError: a gain or zero that is none, or that the bundle cannot use.
        ModelError: the bundle is for something else, or its graph does not fit its manifest.
        SignalError: the rate is not the bundle's.

    Example:
        >>> from edgeae.errors import ModelError
        >>> try:
        ...     Denoiser("nowhere")
        ... except ModelError as error:
        ...     print(error)
        nowhere: there is no bundle (a folder or a zip with manifest.json)
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        streams: int = 1,
        rate_hz: float | None = None,
        gain: float | str = 1.0,
        zero: ArrayLike | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        if not 1 <= streams <= _MAX_STREAMS:
            raise ConfigError(f"streams is {streams}: give 1 to {_MAX_STREAMS}")
        spec = self.bundle.denoise
        if spec.family == "image":
            raise ModelError(
                f"bundle {self.bundle.name!r} denoises images, which are no stream: use "
                "edgeae.denoise, or edgeae denoise with a PNG"
            )
        check_rate(self.bundle, rate_hz)
        self.streams = streams
        self.delay_samples = spec.delay_samples
        self._net: StreamDenoiseNet = stream_net(self.bundle, streams=streams)
        self.engine = self._net.engine
        self._samples = DenoiserSamples(self.bundle, streams)
        self._meter: LevelMeter | None = None
        self._measures = gain == "auto"
        self._told = self._set_level(gain, zero)
        self._front: FrontEnd | None = None
        self._hop = spec.hop
        if spec.front_end is not None:
            stft = StftSpec.from_json(spec.front_end)
            self._front = StftFrontEnd(stft, streams)
            self._hop = spec.hop * stft.hop
        self._check_channels()
        axes = 1 + (streams > 1) + (self.bundle.signal.channels > 1)
        self._form: Form = (axes, np.dtype(self.bundle.signal.dtype))
        self._begin()

    def __repr__(self) -> str:
        return (
            f"Denoiser({self.bundle.name!r}, streams={self.streams}): {self.delay_samples} samples "
            f"late, on {self.engine}"
        )

    @property
    def gain(self) -> NDArray[np.float64]:
        """What samples are multiplied by, float64 [N]; 1 until it is measured."""
        return self._samples.gain.copy()

    @property
    def zero(self) -> NDArray[np.float64]:
        """The sample that stands for nothing, float64 [N, C]."""
        return self._samples.samples_of(self._samples.zero)

    @property
    def held_samples(self) -> int:
        """Samples so far that were no number (NaN); each was taken as the one before it."""
        return self._samples.n_held

    def indices(self, block: ArrayLike) -> NDArray[np.float64]:
        """A block as indices of the bundle's grid, float64 [N, C, T], neither rounded nor scaled.

        Raises:
            SignalError: the block does not fit the bundle.
        """
        values = np.asarray(block)
        self._samples.form_of(values)
        return self._samples.take(values)

    def process(self, block: ArrayLike) -> Samples:
        """Denoise the next samples.

        Args:
            block: [T] or [T, C]; with several streams [N, T] or [N, T, C]. Any T, 0 too. Samples
                beyond the net's range are cut to it.

        Returns:
            As many samples, ``delay_samples`` late, of the block's dtype and shape. Integers are
            rounded and saturated.

        Raises:
            SignalError: the block does not fit the bundle.
        """
        values = np.asarray(block)
        form = self._samples.form_of(values)
        self._form = form
        return self._samples.give(self._advance(self._samples.take(values)), form)

    def flush(self) -> Samples:
        """The last ``delay_samples`` samples; the denoiser is then as new.

        They need samples after the last one: the last one is held (of sound, silence follows).
        """
        if self._samples.is_sound:
            rest = np.zeros((self.streams, self._samples.channels, self.delay_samples))
        else:
            rest = np.repeat(self._samples.last[:, :, None], self.delay_samples, axis=2)
        out = self._samples.give(self._samples.unscale(self._push(rest)), self._form)
        self.reset()
        return out

    def reset(self) -> None:
        """Forget the past: the next block is the first of a signal. What is told stays."""
        samples = self._samples
        samples.gain, samples.zero, samples.rest = (values.copy() for values in self._told)
        self._meter = LevelMeter(self.bundle, self.streams) if self._measures else None
        self._restart()

    def state(self) -> bytes:
        """Everything that the next block hangs on, to go on from later or elsewhere.

        A denoiser of the same bundle and number of streams that restores it continues bit for bit.
        """
        arrays: dict[str, Samples] = {
            "fingerprint": np.frombuffer(self.bundle.fingerprint, np.uint8),
            "pending": self._pending,
            "queue": self._queue,
            "last": self._samples.last,
            "counts": np.array([self._n_started, self._samples.n_held], np.int64),
            "gain": self._samples.gain,
            "zero": self._samples.zero,
            "rest": self._samples.rest,
        }
        if self._meter is not None:
            arrays |= {f"level.{name}": value for name, value in self._meter.state().items()}
        spec = self.bundle.denoise
        for state, values in zip(spec.state, self._net.state(), strict=True):
            wide = state.peak > np.iinfo(np.int16).max
            arrays[f"net.{state.name}"] = values.astype(np.int32 if wide else np.int16)
        if self._front is not None:
            arrays |= {f"front.{name}": value for name, value in self._front.state().items()}
        return pack_arrays(arrays)

    def restore(self, state: bytes) -> None:
        """Go on from what [state][] gave.

        Raises:
            ModelError: these bytes are no state of this bundle with as many streams; the denoiser
                is as it was.
        """
        arrays = read_arrays(state, "state")
        fingerprint = arrays.get("fingerprint", np.zeros(0, np.uint8)).tobytes()
        if fingerprint != self.bundle.fingerprint:
            raise ModelError(
                f"the state is of bundle {fingerprint[:8].hex() or 'unknown'}, this one is "
                f"{self.bundle.fingerprint.hex()}"
            )
        net = [
            self._state_array(arrays, f"net.{s.name}", "i", s.shape, s.peak).astype(np.float32)
            for s in self.bundle.denoise.state
        ]
        channels = self._samples.channels
        pending = self._state_array(arrays, "pending", "f", (channels, None))
        queue = self._state_array(arrays, "queue", "f", (channels, None))
        last = self._state_array(arrays, "last", "f", (channels,))
        gain = self._state_array(arrays, "gain", "f", ())
        zero = self._state_array(arrays, "zero", "f", (channels,))
        rest = self._state_array(arrays, "rest", "f", (channels,))
        meter = self._meter_of(arrays)
        counts = arrays.get("counts", np.zeros(0))
        if (gain <= 0).any():
            raise ModelError("the state is damaged: gain is out of range")
        if (
            pending.shape[2] >= self._hop
            or queue.shape[2] != self._hop - 1 - pending.shape[2]
            or counts.shape != (2,)
            or counts.dtype != np.int64
            or not 0 <= int(counts[0]) <= self.delay_samples
        ):
            raise ModelError("the state is damaged: its parts do not fit each other")
        front = {k.removeprefix("front."): v for k, v in arrays.items() if k.startswith("front.")}
        if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in front.values()):
            raise ModelError("the state is damaged: it holds NaN")
        if self._front is not None:
            self._front.restore(front)
        self._net.restore(net)
        self._meter = meter
        self._samples.gain, self._samples.zero = gain.astype(np.float64), zero.astype(np.float64)
        self._samples.rest = rest.astype(np.float64)
        self._pending, self._queue = pending.astype(np.float64), queue.astype(np.float64)
        self._samples.last = last.astype(np.float64)
        self._n_started, self._samples.n_held = int(counts[0]), int(counts[1])

    # -- level -----------------------------------------------------------------------------

    def _set_level(
        self, gain: float | str, zero: ArrayLike | None
    ) -> tuple[NDArray[np.float64], ...]:
        """Take gain, zero and rest as they are told; give copies. Make a meter where one is due."""
        samples = self._samples
        if samples.is_sound and (gain != 1 or zero is not None):
            raise ConfigError(
                f"bundle {self.bundle.name!r} follows the level of sound by itself: it takes "
                "neither gain nor zero"
            )
        if self._measures:
            if zero is not None:
                raise ConfigError("gain 'auto' measures the zero too: state both, or neither")
            self._meter = LevelMeter(self.bundle, self.streams)
        else:
            samples.gain[:] = told_gain(gain)
            if zero is not None:
                samples.zero[:] = samples.index_of(told_zero(zero, samples.channels))
                samples.rest = samples.zero.copy()
        return samples.gain.copy(), samples.zero.copy(), samples.rest.copy()

    def _advance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The next indices [N, C, T] in, as many out; levels that are to be measured are."""
        samples = self._samples
        if self._meter is None or not self._meter.missing:
            return samples.unscale(self._push(samples.scale(x)))
        n = min(self._meter.missing, x.shape[2])
        first, rest = x[:, :, :n], x[:, :, n:]
        self._meter.add(first)
        out = samples.unscale(self._push(samples.scale(first)))
        if not self._meter.missing:
            self._rescale(self._meter)
        return np.concatenate([out, self._advance(rest)], axis=2) if rest.shape[2] else out

    def _rescale(self, meter: LevelMeter) -> None:
        """Begin anew with the measured level, and go once more through what was measured."""
        samples, seen = self._samples, meter.seen
        samples.gain, samples.zero = meter.measured(samples.center)
        meter.forget()
        self._restart()
        self._push(samples.scale(seen))

    def _meter_of(self, arrays: Mapping[str, Samples]) -> LevelMeter | None:
        """The meter of a state."""
        if "level.seen" not in arrays:
            return None
        meter = LevelMeter(self.bundle, self.streams)
        missing = arrays.get("level.missing", np.zeros(0))
        whole = missing.shape == (1,) and missing.dtype.kind == "i"
        if not whole or not meter.restore(arrays["level.seen"], int(missing[0])):
            raise ModelError("the state has no usable level.seen")
        return meter

    # -- inside ----------------------------------------------------------------------------

    def _restart(self) -> None:
        """Everything but the level as at first."""
        self._net.reset()
        self._samples.reset()
        if self._front is not None:
            self._front.reset()
        self._begin()

    def _begin(self) -> None:
        self._pending = np.zeros((self.streams, self._samples.channels, 0))
        self._queue = self._samples.start(self._hop - 1)
        self._n_started = 0  # start-up samples that have left, delay_samples at most

    def _push(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scaled samples [N, C, T] in, as many out."""
        length = x.shape[2]
        if self._pending.shape[2]:
            x = np.concatenate([self._pending, x], axis=2)
        whole = x.shape[2] // self._hop * self._hop
        self._pending = x[:, :, whole:].copy()
        out = self._queue
        if whole:
            out = np.concatenate([out, self._run(x[:, :, :whole])], axis=2)
        self._queue = out[:, :, length:].copy()
        out = out[:, :, :length]
        starting = min(self.delay_samples - self._n_started, length)
        if starting:
            out = np.concatenate([self._samples.start(starting), out[:, :, starting:]], axis=2)
            self._n_started += starting
        return out

    def _run(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whole hops through the net."""
        if self._front is None:
            return self._net.run(x.astype(np.float32)).astype(np.float64)
        parts = []
        for begin in range(0, x.shape[2], _PIECE_HOPS * self._hop):
            features = self._front.analyse(x[:, 0, begin : begin + _PIECE_HOPS * self._hop])
            parts.append(self._front.synthesise(self._net.run(features)))
        return np.concatenate(parts, axis=1)[:, None]

    def _check_channels(self) -> None:
        n_in = self.bundle.signal.channels
        if self._front is not None:
            if n_in != 1:
                raise ModelError("manifest.json: a front end takes one channel")
            features = self._front.analyse(np.zeros((self.streams, self._hop)))
            self._front.reset()
            n_in = features.shape[1]
        if (self._net.n_in, self._net.n_out) != (n_in, n_in):
            raise ModelError(
                f"denoiser.onnx maps {self._net.n_in} channels to {self._net.n_out}, the manifest "
                f"says {n_in}"
            )

    def _state_array(
        self,
        arrays: Mapping[str, Samples],
        name: str,
        kind: str,
        shape: tuple[int | None, ...],
        peak: int | None = None,
    ) -> Samples:
        """An array of a state, checked."""
        found = arrays.get(name)
        wanted = (self.streams, *shape)
        if found is None or found.dtype.kind != kind or found.ndim != len(wanted):
            raise ModelError(f"the state has no usable {name}")
        if any(w not in (None, n) for n, w in zip(found.shape, wanted, strict=True)):
            sides = ["T" if w is None else w for w in wanted]
            raise ModelError(f"the state's {name} has shape {list(found.shape)}, expected {sides}")
        if not np.isfinite(found).all() or (
            peak is not None and found.size and max(-int(found.min()), int(found.max())) > peak
        ):
            raise ModelError(f"the state is damaged: {name} is out of range")
        return found


def check_rate(bundle: Bundle, rate_hz: float | None) -> None:
    """Refuse a signal of another rate than the bundle's.

    Raises:
        SignalError: the rates differ by more than a thousandth.
    """
    wanted = bundle.signal.rate_hz
    if rate_hz and wanted and abs(rate_hz / wanted - 1) > _RATE_TOLERANCE:
        raise SignalError(
            f"the signal has {rate_hz:g} Hz, bundle {bundle.name!r} wants {wanted:g} Hz: resample "
            "it (edgeae denoise --resample does)"
        )


def denoise(
    bundle: Bundle | str | os.PathLike[str],
    signal: ArrayLike,
    *,
    sigma: float | ArrayLike | None = None,
    views: int = 1,
    rate_hz: float | None = None,
    gain: float | str = 1.0,
    zero: ArrayLike | None = None,
) -> Samples:
    """Denoise a whole signal, or images.

    Args:
        bundle: a denoiser, or where it lies.
        signal: a series [T] or [T, C]; images [H, W], [H, W, C], [N, H, W] or [N, H, W, C].
        sigma: of images whose net is told it: the noise's standard deviation in grey levels, one
            or [N]; None estimates it from each image.
        views: of images: 1, 2 or 4 turned copies whose estimates are averaged.
        rate_hz: of a series, to be checked.
        gain: of a series, see [Denoiser][].
        zero: likewise.

    Returns:
        Of the signal's dtype and shape, and not delayed.

    Raises:
        ModelError: the bundle is no denoiser.
        SignalError: the signal does not fit it.
    """
    model = bundle if isinstance(bundle, Bundle) else load(bundle)
    values = np.asarray(signal)
    if model.denoise.family == "image":
        from edgeae.tasks.denoise_images import denoise_images

        if gain != 1 or zero is not None:
            raise ConfigError("gain and zero are for denoisers of series; this bundle takes images")
        return denoise_images(model, values, sigma=sigma, views=views)
    if sigma is not None or views != 1:
        raise ConfigError("sigma and views are for denoisers of images; this bundle takes a series")
    if values.ndim not in (1, 2):
        raise SignalError(f"the signal has shape {list(values.shape)}, expected [T] or [T, C]")
    denoiser = Denoiser(model, rate_hz=rate_hz, gain=gain, zero=zero)
    first, last = denoiser.process(values), denoiser.flush()
    return np.concatenate([first, last])[denoiser.delay_samples :]
