"""The stream header: what the samples are, how they were coded, what was promised.

FORMAT.md, section 3, describes the bytes. A header is a frozen dataclass; equal headers have
equal bytes, so a radio receiver that knows the fields out of band knows the header's checksum.
"""

from __future__ import annotations

import enum
import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeae.bitstream.crc import crc32
from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.errors import ConfigError, CorruptError, NotAStreamError, TruncatedError, VersionError
from edgeae.signal.grid import Grid, GridSpec

__all__ = [
    "FORMAT_VERSION",
    "MAGIC",
    "MAX_FRAME_SAMPLES",
    "Profile",
    "Promise",
    "StreamHeader",
]

MAGIC = b"\x89EAE"
FORMAT_VERSION = 1
MAX_FRAME_SAMPLES = 1 << 25
MAX_METADATA_BYTES = 1 << 16
_MAX_FIELDS_BYTES = 1 << 21
_MAX_GRID = (1 << 63) - 1
_MAX_DELTA = (1 << 30) - 1
MAX_STEP = 1 << 20

_ZERO = b"\0"  # before num, which is never 0: as many as a grid has entries behind den
_READINGS = ([True], [False, True])

_FLAG_RADIO = 1
_FLAG_MODEL = 2
_FLAG_IMAGES = 4
_FLAG_RATE = 8
_FLAG_METADATA = 16
_FLAG_INEXACT = 32
_FLAG_OWN = 64
_FLAGS_RESERVED = 0x80

_DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)


class Profile(str, enum.Enum):
    """How frames are wrapped: for files that can be searched, or for packets that get lost."""

    FILE = "file"
    RADIO = "radio"


class Promise(str, enum.Enum):
    """What the stream guarantees for every sample."""

    LOSSLESS = "lossless"
    MAX_ERROR = "max_error"
    LOSSY = "lossy"


_PROMISES = (Promise.LOSSLESS, Promise.MAX_ERROR, Promise.LOSSY)


def _pack_float(value: float) -> bytes:
    """Big-endian float64 without its trailing zero bytes, after their number."""
    body = struct.pack(">d", value).rstrip(b"\0")
    return bytes([len(body)]) + body


def _unpack_float(data: bytes, pos: int) -> tuple[float, int]:
    if pos >= len(data):
        raise CorruptError("the header ends before its numbers do")
    n = data[pos]
    body = data[pos + 1 : pos + 1 + n]
    if n > 8 or len(body) != n or (n and body[-1] == 0):
        raise CorruptError(f"a number in the header is badly spelled at byte {pos}")
    return struct.unpack(">d", body.ljust(8, b"\0"))[0], pos + 1 + n


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number in {low}..{high}")


@dataclass(frozen=True, kw_only=True)
class StreamHeader:
    """Everything a reader must know before the first frame.

    Attributes:
        dtype: numpy name of the samples' type, such as ``"int16"``.
        channels: channels C of the signal [T, C] or images [N, H, W, C].
        frame_length: items (time steps or images) in a regular frame.
        image_size: (H, W) of a stream of images, None for a series.
        grids: per channel (num, den): a sample is ``index * num / den``; (num, den, True) if it
            then passes through float32, (num, den, False, True) if it was parsed from a decimal,
            both in float64 streams. One entry stands for all.
        rate_hz: sampling rate, if known.
        promise: what holds for every sample.
        deltas: per channel the step of the residual quantizer on grid indices, odd: 1 for
            lossless. In lossy streams it is the step of the frames that fall back to modes 2, 4
            and 5. One entry stands for all.
        max_error: bound in the user's units, with `Promise.MAX_ERROR` only.
        step: step of the latent quantizer, 0 without a latent.
        fingerprint: 8 bytes naming the bundle, empty without one.
        exact: False if the model's output may differ between machines.
        profile: file or radio.
        metadata: JSON object for programs above the format.

    Example:
        >>> header = StreamHeader(dtype="int16", channels=1, frame_length=1024, rate_hz=360.0)
        >>> data = header.pack()
        >>> len(data), StreamHeader.unpack(data) == (header, len(data))
        (24, True)
    """

    dtype: str
    channels: int
    frame_length: int
    image_size: tuple[int, int] | None = None
    grids: tuple[GridSpec, ...] = ((1, 1),)
    rate_hz: float | None = None
    promise: Promise = Promise.LOSSLESS
    deltas: tuple[int, ...] = (1,)
    max_error: float | None = None
    step: int = 0
    fingerprint: bytes = b""
    exact: bool = True
    profile: Profile = Profile.FILE
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "promise", Promise(self.promise))
        object.__setattr__(self, "profile", Profile(self.profile))
        if self.dtype not in _DTYPES:
            raise ConfigError(f"dtype {self.dtype!r} cannot be coded; use one of {_DTYPES}")
        _check_count("channels", self.channels, 1, 1 << 16)
        if self.image_size is not None:
            for name, size in zip(("height", "width"), self.image_size, strict=True):
                _check_count(name, size, 1, 1 << 16)
        _check_count("frame_length", self.frame_length, 1, MAX_FRAME_SAMPLES)
        if self.frame_length * self.samples_per_item > MAX_FRAME_SAMPLES:
            raise ConfigError(
                f"a frame of {self.frame_length} items has "
                f"{self.frame_length * self.samples_per_item} samples; the format's cap is "
                f"{MAX_FRAME_SAMPLES}. Use a shorter frame_length"
            )
        self._give_each_channel_one("grids")
        self._give_each_channel_one("deltas")
        for num, den, *single in set(self.grids):
            _check_count("each number of a grid", num, 1, _MAX_GRID)
            _check_count("each number of a grid", den, 1, _MAX_GRID)
            if single and (single not in _READINGS or self.dtype != "float64"):
                raise ConfigError(
                    f"the grid {(num, den, *single)} of {self.dtype} samples: a third entry is "
                    "True, for float64 samples that passed through float32; False, True stand for "
                    "float64 samples that were parsed from decimals"
                )
            Grid(num, den, *single)
        for delta in set(self.deltas):
            _check_count("delta", delta, 1, _MAX_DELTA)
            if delta % 2 == 0:
                raise ConfigError(f"delta is {delta}; it must be odd")
            if self.promise is Promise.LOSSLESS and delta != 1:
                raise ConfigError(f"delta is {delta}; a lossless stream has delta 1")
        _check_count("step", self.step, 0, MAX_STEP)
        if (self.promise is Promise.MAX_ERROR) != (self.max_error is not None):
            raise ConfigError("max_error goes with promise 'max_error', and only with it")
        for name, number in (("max_error", self.max_error), ("rate_hz", self.rate_hz)):
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{name} is {number!r}; it must be finite and not negative")
        if len(self.fingerprint) not in (0, 8):
            raise ConfigError(f"a fingerprint has 8 bytes, not {len(self.fingerprint)}")
        if len(self._metadata_bytes()) > MAX_METADATA_BYTES:
            raise ConfigError(
                f"metadata takes {len(self._metadata_bytes())} bytes; "
                f"the format's cap is {MAX_METADATA_BYTES}"
            )

    def _give_each_channel_one(self, name: str) -> None:
        values = tuple(getattr(self, name))
        if len(values) not in (1, self.channels):
            raise ConfigError(
                f"{len(values)} {name} for {self.channels} channels: give one for each, or one "
                "for all"
            )
        object.__setattr__(self, name, values * (self.channels if len(values) == 1 else 1))

    @property
    def itemsize(self) -> int:
        """Bytes of one sample."""
        return np.dtype(self.dtype).itemsize

    @property
    def samples_per_item(self) -> int:
        """Samples in one time step (C) or one image (H * W * C)."""
        height, width = self.image_size or (1, 1)
        return self.channels * height * width

    @property
    def position_unit(self) -> int:
        """Items per unit of a radio frame's position: the largest of 1, 2, 4, 8, 16 that fits."""
        return math.gcd(16, self.frame_length)

    def _metadata_bytes(self) -> bytes:
        if not self.metadata:
            return b""
        try:
            text = json.dumps(
                self.metadata,
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
                sort_keys=True,
            )
            return text.encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metadata must be a JSON object: {error}") from error

    def pack(self) -> bytes:
        """The header's bytes, checksum included."""
        flags = 0
        fields = bytearray([_DTYPES.index(self.dtype)])
        fields += pack_varint(self.channels)
        if self.profile is Profile.RADIO:
            flags |= _FLAG_RADIO
        if self.image_size is not None:
            flags |= _FLAG_IMAGES
            fields += pack_varint(self.image_size[0]) + pack_varint(self.image_size[1])
        fields += pack_varint(self.frame_length)
        n_own = 1
        if len(set(self.grids)) > 1 or len(set(self.deltas)) > 1:
            flags |= _FLAG_OWN
            n_own = self.channels
        for num, den, *single in self.grids[:n_own]:
            fields += _ZERO * len(single) + pack_varint(num) + pack_varint(den)
        fields.append(_PROMISES.index(self.promise))
        for delta in self.deltas[:n_own]:
            fields += pack_varint(delta)
        fields += pack_varint(self.step)
        if self.max_error is not None:
            fields += _pack_float(self.max_error)
        if self.fingerprint:
            flags |= _FLAG_MODEL
            fields += self.fingerprint
        if self.rate_hz is not None:
            flags |= _FLAG_RATE
            fields += _pack_float(self.rate_hz)
        if not self.exact:
            flags |= _FLAG_INEXACT
        if self.metadata:
            flags |= _FLAG_METADATA
            fields += self._metadata_bytes()
        data = MAGIC + bytes([FORMAT_VERSION, flags]) + pack_varint(len(fields)) + fields
        return data + struct.pack("<I", crc32(data))

    @property
    def checksum(self) -> bytes:
        """The last four bytes of the packed header; every frame's checksum starts from them."""
        return self.pack()[-4:]

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> tuple[StreamHeader, int]:
        """Read the header at the start of `data`; return it and its length in bytes.

        Raises:
            NotAStreamError: the magic is missing.
            VersionError: a newer format, or a reserved bit is set.
            TruncatedError: `data` ends inside the header.
            CorruptError: the checksum or a field is wrong.
        """
        start = bytes(data[:4])
        if start != MAGIC[: len(start)]:
            raise NotAStreamError(
                f"the bytes start with {start.hex(' ') or 'nothing'}, not with "
                f"{MAGIC.hex(' ')}: this is not an edgeae stream"
            )
        if len(data) < 7:
            raise TruncatedError(f"the bytes ran out in the stream header, after {len(data)}")
        if data[4] != FORMAT_VERSION:
            raise VersionError(
                f"the stream has format version {data[4]}; this edgeae reads "
                f"version {FORMAT_VERSION}. Install a newer edgeae"
            )
        flags = data[5]
        size, begin = unpack_varint(data, 6)
        if size > _MAX_FIELDS_BYTES:
            raise CorruptError(
                f"the header announces {size} bytes of fields; the cap is {_MAX_FIELDS_BYTES}"
            )
        end = begin + size
        if len(data) < end + 4:
            raise TruncatedError(
                f"the bytes ran out in the stream header: {len(data)} of {end + 4}"
            )
        packed = bytes(data[: end + 4])
        if struct.unpack("<I", packed[end:])[0] != crc32(packed[:end]):
            raise CorruptError("the stream header's checksum is wrong: its bytes have changed")
        if flags & _FLAGS_RESERVED:
            raise VersionError(
                f"the stream header uses flags {flags & _FLAGS_RESERVED:#04x} of a newer "
                "format. Install a newer edgeae"
            )
        try:
            header = cls._from_fields(flags, packed[begin:end])
        except TruncatedError as error:
            raise CorruptError("the header ends before its fields do") from error
        except ConfigError as error:
            raise CorruptError(f"the stream header makes no sense: {error}") from error
        return header, end + 4

    @classmethod
    def _from_fields(cls, flags: int, data: bytes) -> StreamHeader:
        if not data or data[0] >= len(_DTYPES):
            raise CorruptError("the stream header has an unknown sample type")
        dtype = _DTYPES[data[0]]
        channels, pos = unpack_varint(data, 1)
        image_size = None
        if flags & _FLAG_IMAGES:
            height, pos = unpack_varint(data, pos)
            width, pos = unpack_varint(data, pos)
            image_size = (height, width)
        frame_length, pos = unpack_varint(data, pos)
        n_own = channels if flags & _FLAG_OWN else 1
        grids: list[GridSpec] = []
        for _ in range(n_own):
            zeros = 0
            while zeros < len(_READINGS) and data[pos : pos + 1] == _ZERO:
                zeros, pos = zeros + 1, pos + 1
            num, pos = unpack_varint(data, pos)
            den, pos = unpack_varint(data, pos)
            grids.append(((num, den), (num, den, True), (num, den, False, True))[zeros])
        if pos >= len(data) or data[pos] >= len(_PROMISES):
            raise CorruptError("the stream header has an unknown promise")
        promise = _PROMISES[data[pos]]
        pos += 1
        deltas: list[int] = []
        for _ in range(n_own):
            delta, pos = unpack_varint(data, pos)
            deltas.append(delta)
        if flags & _FLAG_OWN and len(set(grids)) < 2 and len(set(deltas)) < 2:
            raise CorruptError("the stream header repeats one grid and delta for every channel")
        step, pos = unpack_varint(data, pos)
        max_error = rate_hz = None
        if promise is Promise.MAX_ERROR:
            max_error, pos = _unpack_float(data, pos)
        fingerprint = b""
        if flags & _FLAG_MODEL:
            fingerprint = data[pos : pos + 8]
            if len(fingerprint) != 8:
                raise CorruptError("the header ends inside the model's fingerprint")
            pos += 8
        if flags & _FLAG_RATE:
            rate_hz, pos = _unpack_float(data, pos)
        metadata: dict[str, Any] = {}
        if flags & _FLAG_METADATA:
            metadata = _unpack_metadata(data[pos:])
        elif pos != len(data):
            raise CorruptError(f"the header has {len(data) - pos} bytes after its last field")
        return cls(
            dtype=dtype,
            channels=channels,
            frame_length=frame_length,
            image_size=image_size,
            grids=tuple(grids),
            rate_hz=rate_hz,
            promise=promise,
            deltas=tuple(deltas),
            max_error=max_error,
            step=step,
            fingerprint=fingerprint,
            exact=not flags & _FLAG_INEXACT,
            profile=Profile.RADIO if flags & _FLAG_RADIO else Profile.FILE,
            metadata=metadata,
        )


def _unpack_metadata(data: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the header's metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict) or not metadata:
        raise CorruptError("the header's metadata is not a JSON object with entries")
    return metadata
