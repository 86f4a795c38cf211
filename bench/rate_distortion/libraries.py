"""What a user would pick instead: general coders, each at its best settings.

Each coder is tried in a few variants, of which the one with the smallest total counts: a user who
knows the coder would have found it. All but SZ3 code integers exactly; under a bound they are
given round(n / (2 E + 1)) of the grid's index n; where all must come back and floats lie beside
their grid, also by how many units of the last place, as a second column. SZ3 is given the bound
itself, and the index as floats, its own kind of number. In frames, nothing is counted that a
receiver could know beforehand: FLAC without STREAMINFO, pcodec, LZMA and zstd without their file's
header. One byte is, where a frame would not tell the width of its integers else.
"""

from __future__ import annotations

import bz2
import importlib.util
import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIBRARIES", "Library", "Unfit", "Variant"]

Array = NDArray[Any]


class Unfit(Exception):
    """A coder cannot take this signal; says why."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to call a coder.

    Attributes:
        settings: in words.
        encode: int64 [T] to bytes.
        decode: bytes and T to int64 [T].
        bounded: it takes the index itself and the bound E, not what was quantized already.
    """

    settings: str
    encode: Callable[..., bytes]
    decode: Callable[[bytes, int], Array]
    bounded: bool = False


@dataclass(frozen=True, kw_only=True)
class Library:
    """A coder.

    Attributes:
        name: for tables.
        module: what must be there to import; package: what to install for it.
        frame, whole: variants in frames and on whole streams.
    """

    name: str
    module: str
    package: str
    frame: Callable[[], list[Variant]]
    whole: Callable[[], list[Variant]]

    @property
    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        there = importlib.util.find_spec(self.module) is not None
        return "" if there else f"not installed: pip install {self.package}"


def _narrow(x: Array, kinds: tuple[type, ...] = (np.int8, np.int16, np.int32)) -> Array:
    """As the smallest of these types."""
    low, high = int(x.min()), int(x.max())
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return x.astype(kind)
    raise Unfit(f"values from {low} to {high} do not fit {np.dtype(kinds[-1]).name}")


# -- pcodec --------------------------------------------------------------------------------------

PCO_KINDS = (np.int16, np.int32)


def _pcodec(orders: tuple[int, ...], *, whole: bool) -> list[Variant]:
    from pcodec import ChunkConfig, DeltaSpec, PagingSpec, standalone, wrapped

    def config(order: int, n: int) -> Any:
        spec = DeltaSpec.auto()
        if order:
            if 0 < n % 256 < order:  # 1.1.0 panics there
                order = n % 256
            spec = DeltaSpec.try_conv1(order)
        return ChunkConfig(
            compression_level=12,
            delta_spec=spec,
            paging_spec=PagingSpec.equal_pages_up_to(max(n, 1)),
        )

    def variant(order: int) -> Variant:
        def encode_frame(x: Array) -> bytes:
            x = _narrow(x, PCO_KINDS)
            chunk = wrapped.FileCompressor().chunk_compressor(x, config(order, len(x)))
            return bytes([x.itemsize]) + chunk.write_meta() + chunk.write_page(0)

        def decode_frame(data: bytes, n: int) -> Array:
            kind = "i16" if data[0] == 2 else "i32"
            header = wrapped.FileCompressor().write_header()
            file, _ = wrapped.FileDecompressor.new(header)
            chunk, used = file.chunk_decompressor(data[1:], kind)
            out = np.empty(n, np.int16 if data[0] == 2 else np.int32)
            chunk.read_page_into(data[1 + used :], n, out)
            return out.astype(np.int64)

        def encode_whole(x: Array) -> bytes:
            return standalone.simple_compress(_narrow(x, PCO_KINDS), config(order, len(x)))

        def decode_whole(data: bytes, _: int) -> Array:
            return np.asarray(standalone.simple_decompress(data)).astype(np.int64)

        settings = f"order {order}" if order else "auto"
        if whole:
            return Variant(settings=settings, encode=encode_whole, decode=decode_whole)
        return Variant(settings=settings, encode=encode_frame, decode=decode_frame)

    return [variant(order) for order in orders]


# -- FLAC ----------------------------------------------------------------------------------------


FLAC_BITS = {1: 8, 4: 16, 6: 24}  # as the third byte of a frame says it


def _flac(*, whole: bool) -> list[Variant]:
    import soundfile

    subtypes = ((8, "PCM_S8", 24), (16, "PCM_16", 16), (24, "PCM_24", 8))

    def encode(x: Array) -> bytes:
        reach = max(int(x.max()), int(-1 - x.min()))
        fitting = [kind for kind in subtypes if reach < 1 << kind[0] - 1]
        if not fitting:
            raise Unfit("FLAC takes integers of 24 bits")
        _, subtype, shift = fitting[0]
        file = io.BytesIO()
        left = (x << shift).astype(np.int32)
        soundfile.write(
            file, left, 8000, subtype=subtype, format="FLAC", compression_level=1.0
        )  # fmt: skip
        data = file.getvalue()
        return data if whole else _without_metadata(data)

    def decode(data: bytes, n: int) -> Array:
        if not whole:
            data = _with_metadata(data, FLAC_BITS[data[3] >> 1 & 7], n)
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            shift = {subtype: shift for _, subtype, shift in subtypes}[file.subtype]
            return file.read(dtype="int32").astype(np.int64) >> shift

    return [Variant(settings="level 8", encode=encode, decode=decode)]


def _without_metadata(data: bytes) -> bytes:
    """The frames of a FLAC file."""
    assert data[:4] == b"fLaC"
    at, last = 4, False
    while not last:
        last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return data[at:]


def _with_metadata(frames: bytes, bits: int, n: int) -> bytes:
    """A FLAC file of bare frames, mono at 8,000 Hz."""
    block = max(n, 16)
    sizes = block.to_bytes(2, "big") * 2 + bytes(6)
    packed = (8000 << 44) | (0 << 41) | (bits - 1 << 36) | n
    info = sizes + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([0x80]) + len(info).to_bytes(3, "big") + info + frames


# -- libaec --------------------------------------------------------------------------------------

AEC_PREPROCESS = 8


def _aec(*, whole: bool) -> list[Variant]:
    from imagecodecs import aec_decode, aec_encode

    def variant(block: int) -> Variant:
        options = {
            "blocksize": block,
            "rsi": 128 if whole else max(1, 1024 // block),
            "flags": AEC_PREPROCESS,
        }

        def kind(bits: int) -> str:
            return f"u{1 if bits <= 8 else 2 if bits <= 16 else 4}"

        def encode(x: Array) -> bytes:
            bits = 1 + max(int(x.max()).bit_length(), int(-1 - x.min()).bit_length(), 1)
            if bits > 32:
                raise Unfit("libaec takes integers of 32 bits")
            unsigned = (x + (1 << bits - 1)).astype(kind(bits))
            room = bytearray(5 * len(x) + 4096)
            return bytes([bits]) + bytes(
                aec_encode(unsigned, bitspersample=bits, out=room, **options)
            )

        def decode(data: bytes, n: int) -> Array:
            bits = data[0]
            span = options["rsi"] * block  # it writes whole spans
            out = np.empty(-(-n // span) * span, kind(bits))
            aec_decode(data[1:], bitspersample=bits, out=out, **options)
            return out[:n].astype(np.int64) - (1 << bits - 1)

        return Variant(settings=f"blocks of {block}", encode=encode, decode=decode)

    return [variant(block) for block in (8, 16, 32, 64)]


# -- bytes ---------------------------------------------------------------------------------------


def _deltas(x: Array) -> tuple[Array, int]:
    narrow = _narrow(np.diff(x, prepend=0), (np.int8, np.int16, np.int32, np.int64))
    return narrow, narrow.itemsize


def _of_deltas(
    settings: str, pack: Callable[[bytes], bytes], unpack: Callable[[bytes, int], bytes]
) -> list[Variant]:
    """A coder of bytes, on differences as they are or all low bytes first, whichever is shorter."""
    planar = 16  # in the first byte, beside the integers' size

    def encode(x: Array) -> bytes:
        d, size = _deltas(x)
        raw = d.view(np.uint8).reshape(-1, size)
        found = [bytes([size]) + pack(raw.tobytes())]
        if size > 1:
            found.append(bytes([size + planar]) + pack(raw.T.tobytes()))
        return min(found, key=len)

    def decode(data: bytes, n: int) -> Array:
        size = data[0] % planar
        raw = np.frombuffer(unpack(data[1:], n * size), np.uint8)
        if data[0] > planar:
            raw = np.ascontiguousarray(raw.reshape(size, -1).T)
        return np.cumsum(raw.ravel().view(f"i{size}").astype(np.int64))

    return [Variant(settings=settings, encode=encode, decode=decode)]


def _zstd(*, whole: bool) -> list[Variant]:
    import zstandard

    form = zstandard.FORMAT_ZSTD1 if whole else zstandard.FORMAT_ZSTD1_MAGICLESS
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, format=form, write_content_size=0, write_checksum=0
    )
    coder = zstandard.ZstdCompressor(compression_params=parameters)
    decoder = zstandard.ZstdDecompressor(format=form)

    def unpack(data: bytes, n: int) -> bytes:
        return decoder.decompress(data, max_output_size=n)

    return _of_deltas("level 19", coder.compress, unpack)


def _xz(*, whole: bool) -> list[Variant]:
    preset = 6 | lzma.PRESET_EXTREME  # 9 differs in its dictionary's size alone: enough is enough
    raw = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": 1 << 16, "lc": 0, "pb": 0}]

    def pack(data: bytes) -> bytes:
        if whole:
            return lzma.compress(data, preset=preset)
        return lzma.compress(data, lzma.FORMAT_RAW, filters=raw)

    def unpack(data: bytes, _: int) -> bytes:
        return lzma.decompress(data, *(() if whole else (lzma.FORMAT_RAW, None, raw)))

    return _of_deltas("preset 6e", pack, unpack)


def _bzip2() -> list[Variant]:
    return _of_deltas("level 9", bz2.compress, lambda data, _: bz2.decompress(data))


# -- SZ3 -----------------------------------------------------------------------------------------


def _sz3() -> list[Variant]:
    from imagecodecs import sz3_decode, sz3_encode

    def variant(kind: type) -> Variant:
        def encode(x: Array, error: int) -> bytes:
            bound = error if error else 0.25
            return bytes(sz3_encode(x.astype(kind), mode="abs", abs=bound))

        def decode(data: bytes, n: int) -> Array:
            out = sz3_decode(data, shape=(n,), dtype=kind)
            return np.asarray(out, np.float64)

        return Variant(settings=np.dtype(kind).name, encode=encode, decode=decode, bounded=True)

    return [variant(kind) for kind in (np.float32, np.float64)]


LPC_ORDERS = (2, 4, 8, 16, 32)

LIBRARIES = (
    Library(name="pcodec", module="pcodec", package="pcodec",
            frame=lambda: _pcodec((0,), whole=False), whole=lambda: _pcodec((0,), whole=True)),
    Library(name="pcodec, LPC", module="pcodec", package="pcodec",
            frame=lambda: _pcodec(LPC_ORDERS, whole=False),
            whole=lambda: _pcodec(LPC_ORDERS, whole=True)),
    Library(name="FLAC", module="soundfile", package="soundfile",
            frame=lambda: _flac(whole=False), whole=lambda: _flac(whole=True)),
    Library(name="libaec", module="imagecodecs", package="imagecodecs",
            frame=lambda: _aec(whole=False), whole=lambda: _aec(whole=True)),
    Library(name="SZ3", module="imagecodecs", package="imagecodecs", frame=_sz3, whole=_sz3),
    Library(name="zstd", module="zstandard", package="zstandard",
            frame=lambda: _zstd(whole=False), whole=lambda: _zstd(whole=True)),
    Library(name="xz", module="lzma", package="a Python with lzma",
            frame=lambda: _xz(whole=False), whole=lambda: _xz(whole=True)),
    Library(name="bzip2", module="bz2", package="a Python with bzip2", frame=_bzip2, whole=_bzip2),
)  # fmt: skip
