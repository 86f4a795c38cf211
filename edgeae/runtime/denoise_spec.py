"""What a denoiser's manifest says of it: the part ``denoise``, checked.

::

    {"signal": {...},                                as a codec's; images may be of any size
     "family": "stream" | "image" | "speech",
     "hop": 4,                                       the net takes 4 samples (or frames) at once
     "delay_samples": 36,                            of a stream, the hop's share included
     "center": [0],                                  per channel or for all, in index units
     "input_peak": 8388608,                          largest |index| it is certified for
     "level": [250.0],                               of series, optional: spread of the training
                                                     data within a second, per channel, in indices
     "state": [{"name": "state_0", "shape": [1, 12], "peak": 2047}, ...],
     "output_exponent": null,                        of a mask: it is integers times 2^-exponent
     "sigma": false,                                 of an image: the net is told the noise's sigma
     "front_end": null}                              of speech: {"kind": "stft", ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeae.errors import ModelError
from edgeae.runtime.manifest_fields import Fields

__all__ = ["DENOISE_FAMILIES", "DenoiseSpec", "StateSpec", "parse_denoise"]

DENOISE_FAMILIES = ("stream", "image", "speech")

_MAX_STATES = 256
_MAX_CHANNELS = 1 << 14
_MAX_LENGTH = 1 << 20
_MAX_HOP = 1 << 16
_MAX_DELAY = 1 << 24
_MAX_PEAK = 1 << 23
_MAX_EXPONENT = 24


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One state tensor of a stream: integers [N, C, L] of at most ``peak``.

    Attributes:
        name: of the graph's input; its output is ``next_`` and the name.
        shape: (C, L).
        peak: largest magnitude.
    """

    name: str
    shape: tuple[int, int]
    peak: int


@dataclass(frozen=True, kw_only=True)
class DenoiseSpec:
    """What a denoiser is.

    Attributes:
        family: one of ``DENOISE_FAMILIES``.
        hop: samples (or frames of a front end) that go through a stream's net at a time; an
            image's height and width are made multiples of it.
        delay_samples: by which a stream's output lags its input, however it is cut.
        center: per channel (or one for all) the index that a stream starts from.
        input_peak: largest magnitude of an index that the net may be given.
        level: per channel how far the signals that the net was trained on spread within a second,
            in index units; None where it is not stated.
        state: the state tensors, in the graph's order.
        output_exponent: the net's output is a mask, integers times ``2**-output_exponent``.
        sigma: whether an image's net is told the noise's standard deviation.
        front_end: what stands between samples and net, as its own module reads it.
    """

    family: str
    hop: int
    delay_samples: int
    center: tuple[int, ...]
    input_peak: int
    level: tuple[float, ...] | None
    state: tuple[StateSpec, ...]
    output_exponent: int | None
    sigma: bool
    front_end: Mapping[str, Any] | None


def parse_denoise(part: Fields) -> DenoiseSpec:
    """Read and check the manifest's part ``denoise``, but for its signal.

    Raises:
        ModelError: a field is missing or out of range.
    """
    family = part.text("family")
    if family not in DENOISE_FAMILIES:
        raise part.fail("family", f"one of {', '.join(DENOISE_FAMILIES)}")
    front_end = part.values.get("front_end")
    if (front_end is not None) != (family == "speech"):
        raise part.fail("front_end", "an object for speech, null for others")
    exponent = part.optional_integer("output_exponent", 0, _MAX_EXPONENT)
    if front_end is not None and exponent is None:
        raise part.fail("output_exponent", "an integer, for the net estimates a mask")
    center = part.values.get("center")
    if not isinstance(center, list) or not 1 <= len(center) <= _MAX_CHANNELS:
        raise part.fail("center", "a list of integers")
    return DenoiseSpec(
        family=family,
        hop=part.integer("hop", 1, _MAX_HOP),
        delay_samples=part.integer("delay_samples", 0, _MAX_DELAY),
        center=part.integers("center", len(center), -_MAX_PEAK, _MAX_PEAK),
        input_peak=part.integer("input_peak", 1, _MAX_PEAK),
        level=_parse_level(part),
        state=_parse_state(part),
        output_exponent=exponent,
        sigma=part.flag("sigma"),
        front_end=None if front_end is None else dict(part.part("front_end").values),
    )


def _parse_level(part: Fields) -> tuple[float, ...] | None:
    values = part.values.get("level")
    if values is None:
        return None
    channels = part.part("signal").integer("channels", 1, _MAX_CHANNELS)
    if (
        not isinstance(values, list)
        or len(values) != channels
        or not all(isinstance(v, int | float) and 0 < v <= _MAX_PEAK for v in values)
    ):
        raise part.fail("level", "a positive number for each channel, or null")
    return tuple(float(v) for v in values)


def _parse_state(part: Fields) -> tuple[StateSpec, ...]:
    values = part.values.get("state")
    if not isinstance(values, list) or len(values) > _MAX_STATES:
        raise part.fail("state", f"a list of at most {_MAX_STATES} objects")
    found = []
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise part.fail("state", "a list of objects")
        one = Fields(f"{part.path}state[{number}].", value)
        channels, length = one.integers("shape", 2, 1, _MAX_LENGTH)
        found.append(
            StateSpec(
                name=one.text("name"),
                shape=(channels, length),
                peak=one.integer("peak", 1, _MAX_PEAK),
            )
        )
    if len({state.name for state in found}) != len(found):
        raise ModelError("manifest.json: two states of the same name")
    return tuple(found)
