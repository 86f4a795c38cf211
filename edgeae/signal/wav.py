"""WAV files: PCM of 8, 16, 24 and 32 bits, and float. (The standard library reads no float.)

References:
    Microsoft, Multimedia Programming Interface and Data Specifications 1.0 (RIFF/WAVE), 1991.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeae.errors import SignalError
from edgeae.signal.base import Array, SignalFile, checked
from edgeae.signal.files import open_input, read_exactly

__all__ = ["iter_wav", "known_rate", "read_wav", "wav_header", "wav_samples"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_DTYPES = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 24): "<i4", (_PCM, 32): "<i4"}
_DTYPES |= {(_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # written by programs that pipe


@dataclass(frozen=True)
class _Format:
    code: int
    bits: int
    channels: int
    rate_hz: int


def read_wav(path: str | Path) -> SignalFile:
    """All samples of a WAV file; 24-bit samples come as int32."""
    with open_input(path) as file:
        form, size, notes = _find_data(file, str(path))
        content = file.read() if size is None else read_exactly(file, size)
        if size is not None and len(content) < size:
            raise SignalError(f"{path} announces {size} bytes of samples, has {len(content)}")
        if size is not None and file.read(9)[1 if size % 2 else 0 :].strip(b"\0"):
            notes.append("chunks after the samples (labels, tags) are not kept")
    return _packed(content, form, notes, str(path))


def iter_wav(path: str | Path, chunk_items: int) -> Iterator[SignalFile]:
    """The same in chunks, in constant memory."""
    with open_input(path) as file:
        form, left, notes = _find_data(file, str(path))
        step = form.channels * form.bits // 8
        done = False
        while left is None or left > 0:
            want = chunk_items * step if left is None else min(chunk_items * step, left)
            content = read_exactly(file, want)
            if content:
                done = True
                yield _packed(content, form, notes, str(path))
                notes = []
            if len(content) < want:
                if left is not None:
                    raise SignalError(f"{path} ended {left - len(content)} bytes early")
                break
            left = None if left is None else left - want
    if not done:
        raise SignalError(f"{path} has no samples")


def wav_header(
    dtype: np.dtype[Any], channels: int, rate_hz: float, meta: dict[str, Any], n_bytes: int
) -> bytes:
    """Everything before the samples.

    Raises:
        SignalError: WAV cannot hold the dtype, the rate or the size.
    """
    bits = 24 if meta.get("bits") == 24 and dtype == np.int32 else dtype.itemsize * 8
    code = _FLOAT if dtype.kind == "f" else _PCM
    if (code, bits) not in _DTYPES or np.dtype(_DTYPES[code, bits]).newbyteorder("=") != dtype:
        raise SignalError(f"WAV cannot hold {dtype} samples exactly; write .npy instead")
    if not (rate_hz == int(rate_hz) and 1 <= rate_hz < 1 << 32 and channels < 1 << 16):
        raise SignalError(f"WAV needs a whole rate in Hz, got {rate_hz:g}; write .npy instead")
    if n_bytes >= (1 << 32) - 100:
        raise SignalError("WAV holds at most 4 GiB; write .npy instead")
    step = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", code, channels, int(rate_hz), min(int(rate_hz) * step, 0xFFFFFFFF), step, bits
    )
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    if code == _FLOAT:
        body += b"fact" + struct.pack("<II", 4, n_bytes // step)
    body += b"data" + struct.pack("<I", n_bytes)
    return b"RIFF" + struct.pack("<I", len(body) + n_bytes + n_bytes % 2) + body


def wav_samples(data: Array, meta: dict[str, Any]) -> bytes:
    """The samples as they stand in a WAV file."""
    if meta.get("bits") == 24 and data.dtype == np.int32:
        if data.size and max(abs(int(data.min())), abs(int(data.max()) + 1)) > 1 << 23:
            raise SignalError("samples beyond 24 bits do not fit the 24-bit WAV they came from")
        quads = np.ascontiguousarray(data, "<i4").view(np.uint8).reshape(-1, 4)
        return quads[:, :3].tobytes()
    return data.astype(data.dtype.newbyteorder("<"), order="C", copy=False).tobytes()


def known_rate(rate_hz: float | None) -> float:
    """The rate, or a SignalError: a WAV file cannot do without."""
    if rate_hz is None:
        raise SignalError("WAV needs the rate in Hz, which is not known; use --rate, or write .npy")
    return rate_hz


def _find_data(file: BinaryIO, path: str) -> tuple[_Format, int | None, list[str]]:
    """Read up to the first sample; the size is None where the writer did not know it."""
    head = read_exactly(file, 12)
    if head[:4] == b"RF64":
        raise SignalError(f"{path} is an RF64 file (over 4 GiB), which is not supported")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise SignalError(f"{path} is not a WAV file: it starts with {head[:12]!r}")
    form, notes = None, []
    while len(chunk := read_exactly(file, 8)) == 8:
        name, size = chunk[:4], int(struct.unpack("<I", chunk[4:])[0])
        if name == b"data":
            if form is None:
                raise SignalError(f"{path} has samples before their format chunk")
            return form, None if size in _UNKNOWN_SIZES else size, notes
        content = read_exactly(file, min(size + size % 2, 1 << 26))
        if name == b"fmt ":
            form = _parse_format(content, path)
        elif name not in (b"fact", b"JUNK", b"PEAK"):
            notes.append(f"the {name.decode('latin-1').strip()} chunk (tags) is not kept")
    raise SignalError(f"{path} has no data chunk")


def _parse_format(content: bytes, path: str) -> _Format:
    if len(content) < 16:
        raise SignalError(f"{path} has a format chunk of {len(content)} bytes, expected 16 or more")
    code, channels, rate, _, step, bits = struct.unpack("<HHIIHH", content[:16])
    if code == _EXTENSIBLE and len(content) >= 26:
        code = struct.unpack("<H", content[24:26])[0]
    if (code, bits) not in _DTYPES:
        raise SignalError(
            f"{path} is coded as format {code} with {bits} bits; only plain PCM of 8, 16, 24 or 32 "
            "bits and float are read"
        )
    if not channels or not rate or step != channels * bits // 8:
        raise SignalError(f"{path}: {channels} channels at {rate} Hz in blocks of {step} bytes?")
    return _Format(code, bits, channels, rate)


def _packed(content: bytes, form: _Format, notes: list[str], path: str) -> SignalFile:
    step = form.channels * form.bits // 8
    if len(content) % step:
        raise SignalError(f"{path} ends in the middle of a sample: {len(content)} bytes of {step}")
    if form.bits == 24:
        quads = np.zeros((len(content) // 3, 4), np.uint8)
        quads[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        samples = quads.view("<i4").ravel() >> 8
    else:
        samples = np.frombuffer(content, _DTYPES[form.code, form.bits])
    data = samples if form.channels == 1 else samples.reshape(-1, form.channels)
    meta = {"container": "wav", "bits": form.bits}
    return SignalFile(
        data=checked(data, path), rate_hz=float(form.rate_hz), meta=meta, notes=tuple(notes)
    )
