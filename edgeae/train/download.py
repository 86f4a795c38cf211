"""Fetch the freely licensed data sets: MNIST and the MIT-BIH Arrhythmia Database.

The downloading, its cache and its checksums are pooch's work. What arrives is written in the
layout that ``load_dataset`` reads.

References:
    G. B. Moody, R. G. Mark, IEEE Eng. in Med. and Biol. 20(3):45-50 (2001);
    A. L. Goldberger et al., Circulation 101(23):e215 (2000).
    Formats 212 and MIT annotations: WFDB Applications Guide, signal(5) and annot(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, DependencyError, EdgeAEError, SignalError
from edgeae.signal.files import atomic_output

__all__ = ["FETCHABLE", "data_folder", "fetch"]

FETCHABLE = ("ecg", "mnist")

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_SHA256 = {
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MITDB_URL = "https://physionet.org/files/mitdb/1.0.0/"
_MITDB_RECORDS = ("100", "102", "104", "105", "106", "108", "114", "121", "123")
_BEATS = frozenset([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 30, 31, 34, 35, 38, 41])
_PVC = 5


def data_folder() -> Path:
    """Where named data sets are: the variable EDGEAE_DATA, else a cache folder of the user."""
    named = os.environ.get("EDGEAE_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeae" / "data"


def fetch(
    name: str,
    folder: Path | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Download a data set with checksums, and put it where ``load_dataset`` looks.

    Args:
        name: ``mnist`` or ``ecg``.
        folder: instead of ``data_folder()``.
        say: called with a line of progress for each file.

    Returns:
        The folder of the data set.

    Raises:
        ConfigError: no such name. DependencyError: pooch is not installed.
        EdgeAEError: the network or a checksum failed; files that are complete stay.
    """
    if name not in FETCHABLE:
        raise ConfigError(f"{name!r} cannot be fetched; choose one of {', '.join(FETCHABLE)}")
    root = folder if folder is not None else data_folder()
    target = root / {"mnist": "mnist", "ecg": "ecg_mitdb"}[name]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeAEError(f"cannot make {target}: {error.strerror or error}") from error
    if name == "mnist":
        for part, sha256 in _MNIST_SHA256.items():
            file = f"{part}-ubyte.gz"
            _say(say, f"{file} from {_MNIST_URL}")
            _retrieve(_MNIST_URL + file, f"sha256:{sha256}", target)
    else:
        _fetch_mitdb(target, say)
    return target


def _say(say: Callable[[str], None] | None, message: str) -> None:
    if say is not None:
        say(message)


def _retrieve(url: str, known_hash: str | None, folder: Path) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DependencyError("pooch", "train") from error
    try:
        path = pooch.retrieve(
            url, known_hash, fname=url.rpartition("/")[2], path=folder, progressbar=False
        )
    except Exception as error:  # requests' errors, ValueError for a wrong checksum
        raise EdgeAEError(f"could not fetch {url}: {error}") from error
    return Path(path)


def _fetch_mitdb(target: Path, say: Callable[[str], None] | None) -> None:
    download = target / "physionet"
    # PhysioNet publishes the checksums beside the files; they come over the same TLS.
    sums = _retrieve(_MITDB_URL + "SHA256SUMS.txt", None, download)
    known = dict(_parse_sums(sums.read_text("utf-8", "replace")))
    for record in _MITDB_RECORDS:
        if (target / f"{record}.npz").exists():
            continue
        _say(say, f"record {record} from {_MITDB_URL}")
        paths = []
        for suffix in ("hea", "dat", "atr"):
            file = f"{record}.{suffix}"
            if file not in known:
                raise EdgeAEError(f"PhysioNet's SHA256SUMS.txt does not list {file}")
            paths.append(_retrieve(_MITDB_URL + file, f"sha256:{known[file]}", download))
        arrays = read_record(*paths)
        with atomic_output(target / f"{record}.npz") as out:
            np.savez_compressed(out, **arrays)


def _parse_sums(text: str) -> list[tuple[str, str]]:
    return [(file, digest) for digest, file in re.findall(r"^([0-9a-f]{64})\s+(\S+)$", text, re.M)]


def read_record(header: Path, signal: Path, annotations: Path | None) -> dict[str, Any]:
    """The first signal of a WFDB record of format 212, with its beats.

    Returns:
        adc int16 [T], fs, gain, zero, r_peaks int64 and pvc int64 (sample indices).
    """
    lines = [
        line.split() for line in header.read_text("ascii", "replace").splitlines()
        if line.strip() and not line.startswith("#")
    ]  # fmt: skip
    try:
        n_signals, rate_hz = int(lines[0][1]), float(lines[0][2].split("/")[0])
        n_samples = int(lines[0][3])
        spec = lines[1]
        form, gain = spec[1], float(re.split(r"[(/]", spec[2])[0])
        zero = int(spec[4])
    except (IndexError, ValueError) as error:
        raise SignalError(f"{header} is not a WFDB header") from error
    if form != "212":
        raise SignalError(f"{header} announces format {form}; only 212 is read")
    samples = unpack_212(signal.read_bytes(), n_samples * n_signals)
    beats, pvc = (
        read_annotations(annotations.read_bytes())
        if annotations is not None
        else (np.zeros(0, np.int64),) * 2
    )
    return {
        "adc": samples.reshape(n_samples, n_signals)[:, 0].copy(),
        "fs": np.float64(rate_hz),
        "gain": np.float64(gain),
        "zero": np.int64(zero),
        "r_peaks": beats,
        "pvc": pvc,
    }


def unpack_212(content: bytes, n: int) -> NDArray[np.int16]:
    """Two 12-bit two's complement samples in three bytes.

    Example:
        >>> unpack_212(bytes([0xE3, 0x33, 0xF3]), 2).tolist()
        [995, 1011]
    """
    if len(content) < (3 * n + 1) // 2:
        raise SignalError(f"{n} samples of format 212 need {(3 * n + 1) // 2} bytes, found fewer")
    padded = np.frombuffer(content + b"\0" * (-len(content) % 3), np.uint8)
    triples = padded[: (n + 1) // 2 * 3].reshape(-1, 3).astype(np.int16)
    first = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    second = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
    both = np.stack([first, second], axis=1).reshape(-1)[:n]
    return ((both ^ 0x800) - 0x800).astype(np.int16)


def read_annotations(content: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample indices of all beats and of the ventricular ectopic ones, from MIT annotations."""
    words = np.frombuffer(content[: len(content) // 2 * 2], "<u2").tolist()
    time, i = 0, 0
    beats, pvc = [], []
    while i < len(words):
        code, step = words[i] >> 10, words[i] & 0x3FF
        i += 1
        if code == 0 and step == 0:
            break
        if code == 59:  # SKIP: the next four bytes, high word first
            high, low = (words[i], words[i + 1]) if i + 1 < len(words) else (0, 0)
            time += (((high << 16) | low) ^ 0x80000000) - 0x80000000
            i += 2
        elif code == 63:  # AUX: text, padded to a whole word
            i += (step + 1) // 2
        elif code < 59:
            time += step
            if code in _BEATS:
                beats.append(time)
            if code == _PVC:
                pvc.append(time)
    return np.array(beats, np.int64), np.array(pvc, np.int64)
