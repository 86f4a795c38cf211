"""What a bundle says of itself: the checked, typed view of manifest.json.

``Manifest.parse`` is the only way in. It checks everything the runtime later relies on, so the rest
of the code meets plain numbers in known ranges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeae.errors import ModelError, VersionError
from edgeae.runtime.denoise_spec import DenoiseSpec, parse_denoise
from edgeae.runtime.manifest_fields import Fields

__all__ = [
    "BUNDLE_FORMAT",
    "BUNDLE_VERSION",
    "FINGERPRINTED",
    "FINGERPRINT_BYTES",
    "TASKS",
    "CodecSpec",
    "Manifest",
    "NetSpec",
    "PriorRange",
    "SignalSpec",
    "canonical_json",
    "fingerprint_of",
    "manifest_digest",
]

BUNDLE_FORMAT = "edgeae-bundle"
BUNDLE_VERSION = 1
FINGERPRINTED = ("coder.npz", "decoder.onnx", "denoiser.onnx", "encoder.onnx", "prior.onnx")
"""The files whose hashes make the fingerprint, beside the task's part of the manifest."""
TASKS = ("codec", "denoise")
"""What a bundle can be for; the manifest's part of that name says the details."""
FINGERPRINT_BYTES = 8

_MAX_CHANNELS = 1024
_MAX_SIDE = 1 << 14
_MAX_STRIDE = 1 << 16
_MAX_LATENT = 1 << 20
_MAX_STEP = 1 << 16
_MAX_DELTA = (1 << 30) - 1
_MAX_PRIORS = 64
_MAX_CONTEXT = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SignalSpec:
    """The signal a model is made for.

    ``grids`` holds one (num, den) for all channels or one for each: sample = index * num / den.
    Whether float64 samples passed through float32 is the stream's affair, for the indices are the
    same.
    Images have a height and a width; None where a denoiser takes any.
    """

    kind: str
    channels: int
    height: int | None
    width: int | None
    dtype: str
    rate_hz: float | None
    unit: str
    grids: tuple[tuple[int, int], ...]
    channel_names: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        """Whether an item is an image rather than a time step."""
        return self.kind == "image"


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """The window code of a model: one latent vector of L channels per S items.

    ``fixed_window`` is the window W of a dense net. Latents are integers up to ``latent_max``;
    symbols are latents divided by a step between ``min_step`` and ``max_step``. A lossy frame whose
    RMSE exceeds ``max_rmse`` in a channel (in grid indices; one entry for all channels or one for
    each) is coded another way. ``context`` says how far the
    nets of a series look to each side: the analysis net in items, the synthesis net in latents;
    long frames are then run in pieces, with the same result. Without it they are run whole.
    """

    stride: int
    latent_channels: int
    latent_shape: tuple[int, int] | None
    fixed_window: int | None
    latent_max: int
    min_step: int
    max_step: int
    default_step: int
    max_rmse: tuple[float, ...]
    context: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class PriorRange:
    """The quantizer steps that one sample prior serves, and whether it reads the window code."""

    delta_min: int
    delta_max: int
    has_code: bool
    step: int | None


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """What a codec has: a window code or none, and the ranges of its sample priors."""

    net: NetSpec | None
    sample_priors: tuple[PriorRange, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest; ``raw`` keeps everything, also what the runtime does not need.

    ``task`` is one of ``TASKS``, and the attribute of that name is the one that is not None.

    ``run`` names the files that onnxruntime opens instead of others: the same graphs, bit for bit,
    in a spelling that was measured to be faster. They do not count for the fingerprint.
    """

    name: str
    task: str
    exact: bool
    fingerprint: bytes
    signal: SignalSpec
    codec: CodecSpec | None
    denoise: DenoiseSpec | None
    files: Mapping[str, str]
    run: Mapping[str, str]
    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Read and check the bytes of manifest.json.

        Raises:
            ModelError: not a manifest, or a field is missing or out of range.
            VersionError: the bundle was written by a newer version.
        """
        try:
            raw = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"manifest.json: not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("format") != BUNDLE_FORMAT:
            raise ModelError(f'manifest.json: expected "format": "{BUNDLE_FORMAT}"')
        version = raw.get("version")
        if type(version) is not int or version < 1:
            raise ModelError(f"manifest.json: version is {version!r}, expected an integer >= 1")
        if version > BUNDLE_VERSION:
            raise VersionError(
                f"the bundle has version {version}, this edgeae reads up to {BUNDLE_VERSION}: "
                "upgrade edgeae"
            )
        root = Fields("", raw)
        task = root.text("task")
        if task not in TASKS:
            raise ModelError(
                f"manifest.json: task is {task!r}, this edgeae knows {', '.join(map(repr, TASKS))}"
            )
        if raw.get("sha256") != manifest_digest(raw):
            raise ModelError("manifest.json: its sha256 does not fit: the file was changed")
        part = root.part(task)
        signal = _parse_signal(part.part("signal"), any_size=task == "denoise")
        manifest = cls(
            name=root.text("name"),
            task=task,
            exact=root.flag("exact"),
            fingerprint=_fingerprint(root.text("fingerprint")),
            signal=signal,
            codec=_parse_codec(part, signal) if task == "codec" else None,
            denoise=parse_denoise(part) if task == "denoise" else None,
            files=_parse_files(root.part("files")),
            run=_parse_run(root),
            raw=raw,
        )
        if manifest.fingerprint != fingerprint_of(manifest.files, raw[task]):
            raise ModelError("manifest.json: the fingerprint does not fit: the file was changed")
        return manifest


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value that hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def fingerprint_of(files: Mapping[str, str], spec: Mapping[str, Any]) -> bytes:
    """Fingerprint of a model: the first 8 bytes of SHA-256 over its files' hashes and its spec.

    Args:
        files: SHA-256 (hex) by file name; only those in ``FINGERPRINTED`` count.
        spec: the manifest's part for its task.
    """
    parts = [[name, files[name]] for name in FINGERPRINTED if name in files]
    return hashlib.sha256(canonical_json(parts) + canonical_json(spec)).digest()[:FINGERPRINT_BYTES]


def manifest_digest(raw: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's content without its own ``sha256`` field."""
    try:
        content = canonical_json({key: value for key, value in raw.items() if key != "sha256"})
    except ValueError as error:
        raise ModelError(f"manifest.json: {error}") from error
    return hashlib.sha256(content).hexdigest()


def _fingerprint(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != FINGERPRINT_BYTES:
        raise ModelError(f"manifest.json: fingerprint is {text[:40]!r}, expected 16 hex digits")
    return value


def _parse_codec(part: Fields, signal: SignalSpec) -> CodecSpec:
    net = None
    if part.values.get("net") is not None:
        net = _parse_net(part.part("net"), signal.channels)
    spec = CodecSpec(net=net, sample_priors=_parse_priors(part))
    if net is None and any(prior.has_code for prior in spec.sample_priors):
        raise ModelError("manifest.json: a sample prior reads the code, and there is no net")
    return spec


def _parse_signal(part: Fields, *, any_size: bool) -> SignalSpec:
    """The signal; images may be of any size where the task permits it."""
    kind = part.text("kind")
    if kind not in ("series", "image"):
        raise ModelError(f"manifest.json: {part.path}kind is {kind!r}: 'series' or 'image'")
    image = kind == "image"
    channels = part.integer("channels", 1, _MAX_CHANNELS)
    grids = _parse_grids(part, channels)
    names = part.values.get("channel_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"manifest.json: {part.path}channel_names must be a list of strings")
    rate = part.values.get("rate_hz")
    return SignalSpec(
        kind=kind,
        channels=channels,
        height=_parse_side(part, "height", any_size) if image else None,
        width=_parse_side(part, "width", any_size) if image else None,
        dtype=part.text("dtype"),
        rate_hz=None if rate is None else part.number("rate_hz"),
        unit=part.text("unit") if part.values.get("unit") is not None else "",
        grids=grids,
        channel_names=tuple(names),
    )


def _parse_side(part: Fields, key: str, any_size: bool) -> int | None:
    if any_size:
        return part.optional_integer(key, 1, _MAX_SIDE)
    return part.integer(key, 1, _MAX_SIDE)


def _parse_grids(part: Fields, channels: int) -> tuple[tuple[int, int], ...]:
    """One (num, den) for all channels, or one for each."""
    grids = tuple(
        _pair(entry.integers(str(c), 2, 1, 2**63 - 1))
        for c, entry in enumerate(part.each("grids", channels))
    )
    return grids[:1] if len(set(grids)) == 1 else grids


def _parse_net(part: Fields, channels: int) -> NetSpec:
    steps = part.part("steps")
    low = steps.integer("min", 1, _MAX_STEP)
    high = steps.integer("max", low, _MAX_STEP)
    shape = part.values.get("latent_shape")
    net = NetSpec(
        stride=part.integer("stride", 1, _MAX_STRIDE),
        latent_channels=part.integer("latent_channels", 1, _MAX_CHANNELS),
        latent_shape=None if shape is None else _pair(part.integers("latent_shape", 2, 1, 1 << 14)),
        fixed_window=part.optional_integer("fixed_window", 1, _MAX_STRIDE),
        latent_max=part.integer("latent_max", 1, _MAX_LATENT),
        min_step=low,
        max_step=high,
        default_step=steps.integer("default", low, high),
        max_rmse=tuple(
            entry.number(str(c)) for c, entry in enumerate(part.each("max_rmse", channels))
        ),
        context=(
            None
            if part.values.get("context") is None
            else _pair(part.integers("context", 2, 0, _MAX_CONTEXT))
        ),
    )
    if net.fixed_window is not None and net.fixed_window % net.stride:
        raise ModelError("manifest.json: codec.net.fixed_window is not a multiple of the stride")
    return net


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


def _parse_priors(codec: Fields) -> tuple[PriorRange, ...]:
    values = codec.values.get("sample_priors", [])
    if not isinstance(values, list) or len(values) > _MAX_PRIORS:
        raise ModelError(f"manifest.json: codec.sample_priors must be a list of <= {_MAX_PRIORS}")
    ranges = []
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise ModelError("manifest.json: codec.sample_priors holds something else than objects")
        part = Fields(f"codec.sample_priors[{number}].", value)
        low = part.integer("delta_min", 1, _MAX_DELTA)
        ranges.append(
            PriorRange(
                delta_min=low,
                delta_max=part.integer("delta_max", low, _MAX_DELTA),
                has_code=part.flag("has_code"),
                step=part.optional_integer("step", 1, _MAX_STEP),
            )
        )
    return tuple(ranges)


def _parse_files(part: Fields) -> Mapping[str, str]:
    for name in part.values:
        if len(part.text(name)) != 64:
            raise ModelError(f"manifest.json: files.{name} is not a SHA-256")
        if not name or "/" in name or "\\" in name or name.startswith("."):
            raise ModelError(f"manifest.json: {name!r} is not a plain file name")
    return dict(part.values)


def _parse_run(root: Fields) -> Mapping[str, str]:
    if root.values.get("run") is None:
        return {}
    part, files = root.part("run"), root.part("files").values
    for name in part.values:
        if name not in files or part.text(name) not in files:
            raise part.fail(name, "one of the bundle's files instead of another")
    return dict(part.values)
