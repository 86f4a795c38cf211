"""Frozen streams: every reader must read them for ever, and nobody may rewrite them.

``tests/conformance`` holds numbered files named by what they prove, and a manifest: the SHA-256 of
each file, and what a reader makes of it without a model - samples, losses, an error. 0xx decode,
1xx must be refused. To prove something new, add a file; never change one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeae.bitstream import classical_kernel, levels, recall
from edgeae.bitstream.header import Promise, StreamHeader
from edgeae.errors import EdgeAEError
from edgeae.tasks.stream import StreamDecoder

FOLDER = Path(__file__).parent / "conformance"
MANIFEST: dict[str, dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())


def outcome(data: bytes, piece: int) -> dict[str, Any]:
    """What the manifest would say of a stream that is fed in pieces."""
    decoder = StreamDecoder(None, lost="skip")
    parts: list[np.ndarray] = []
    found: dict[str, Any] = {}
    try:
        for begin in range(0, len(data), piece):
            parts.append(decoder.write(data[begin : begin + piece]))
        parts.append(decoder.close())
    except EdgeAEError as error:
        found["error"] = type(error).__name__
    parts = [part for part in parts if part.dtype != bool and part.size]
    if parts:
        samples = np.concatenate(parts)
        found["dtype"], found["shape"] = str(samples.dtype), list(samples.shape)
        found["samples"] = hashlib.sha256(samples.tobytes()).hexdigest()
    if decoder.lost_items:
        found["lost"] = [list(gap) for gap in decoder.lost_items]
    return found


def test_no_file_was_rewritten_or_forgotten() -> None:
    digests = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.eae")
    }
    assert digests == {name: entry["sha256"] for name, entry in MANIFEST.items()}


@pytest.mark.parametrize("pure", [False, True], ids=["c", "python"])
@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_reads_as_ever(name: str, pure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pure:
        if name == "009_classical_long_quiet":
            pytest.skip("a second of Python for what the others prove too")
        for module in (classical_kernel, levels, recall):
            monkeypatch.setattr(module, "core", None)
    expected = {key: value for key, value in MANIFEST[name].items() if key != "sha256"}
    data = (FOLDER / f"{name}.eae").read_bytes()
    assert outcome(data, len(data)) == expected
    assert outcome(data, 7) == expected


def test_the_full_header_reads_as_written() -> None:
    data = (FOLDER / "001_header_with_every_field.eae").read_bytes()
    header, size = StreamHeader.unpack(data)
    assert header == StreamHeader(
        dtype="float64",
        channels=3,
        frame_length=10,
        grids=((981, 409600),),
        rate_hz=102.4,
        promise=Promise.MAX_ERROR,
        deltas=(7,),
        max_error=0.00719,
        step=12,
        fingerprint=bytes(range(8)),
        metadata={"columns": ["x", "y", "ß"], "n": 1},
    )
    assert header.pack() == data[:size]
