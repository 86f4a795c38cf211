"""What the quickstart measures on samples the model never saw: rate, promises, latency, memory.

Everything is read off real streams: bytes with their headers, and samples decoded from those bytes.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.metrics import bits_per_sample, max_abs_error, prdn, rmse, snr_db
from edgeae.profiling.distribution import Distribution
from edgeae.profiling.packets import PacketLoop, PromiseSpec
from edgeae.profiling.process import file_memory
from edgeae.profiling.recorder import Recorder
from edgeae.runtime.bundle import Bundle
from edgeae.tasks.codec import lossy_rmse
from edgeae.tasks.stream import StreamEncoder, decode, encode

__all__ = [
    "PACKET_ITEMS",
    "Check",
    "Coding",
    "Mode",
    "Peer",
    "code_in_mode",
    "curve",
    "memory_of",
    "packets_of",
]

PACKET_ITEMS = 1024
"""Samples per frame in the measurements of latency and of radio packets."""
_ODD_PIECE = 777  # samples per write where streaming is compared with one shot
_XZ_PRESET = 9 | lzma.PRESET_EXTREME

Samples = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A promise to code under; with neither field, the stream is lossy.

    Attributes:
        name: for files and tables.
        max_error: bound on |x - x_hat|.
        lossless: every bit comes back.
    """

    name: str
    max_error: int | None = None
    lossless: bool = False

    @property
    def title(self) -> str:
        """For people."""
        if self.lossless:
            return "Lossless"
        return "Lossy" if self.max_error is None else f"Max error {self.max_error}"

    @property
    def option(self) -> str:
        """The option of ``edgeae compress``."""
        if self.lossless:
            return "--lossless"
        return "" if self.max_error is None else f"--max-error {self.max_error}"

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments of ``edgeae.encode``."""
        return {"max_error": self.max_error, "lossless": self.lossless}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold, and whether it does."""

    mode: str
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The same samples under the same promise, coded another way.

    Attributes:
        name: of the coder and of what it was given.
        family: ``classical``, ``xz`` or ``zlib``.
        bits_per_sample: rate, headers included.
        rmse: of its reconstruction; 0 where lossless.
    """

    name: str
    family: str
    bits_per_sample: float
    rmse: float


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What came of one mode.

    Attributes:
        mode: the promise.
        stream: the bytes of the whole stream.
        recon: what they decode to.
        rate: bits per sample, headers included; ``ratio`` to the source's samples.
        rmse, snr_db, prdn_percent, worst: distortion, in the signal's units.
        peer_bound: the bound that the other coders were given.
        peers: the other coders.
            checks: what was promised and verified.
    """

    mode: Mode
    stream: bytes
    recon: Samples
    rate: float
    ratio: float
    rmse: float
    snr_db: float
    prdn_percent: float
    worst: float
    peer_bound: int
    peers: tuple[Peer, ...] = ()
    checks: tuple[Check, ...] = ()

    def best(self, family: str) -> Peer:
        """The smallest of a family of peers."""
        return min(
            (peer for peer in self.peers if peer.family == family),
            key=lambda peer: peer.bits_per_sample,
        )


def code_in_mode(bundle: Bundle, x: Samples, mode: Mode) -> Coding:
    """Code and decode a signal in one mode, check its promise, and code it the usual ways.

    Args:
        bundle: the model.
        x: int16 [T].
        mode: the promise.
    """
    stream = encode(bundle, x, **mode.keywords)
    recon = decode(bundle, stream)
    bound = _peer_bound(x, mode, rmse(x, recon))
    return Coding(
        mode=mode,
        stream=stream,
        recon=recon,
        rate=bits_per_sample(len(stream), x.size),
        ratio=x.nbytes / len(stream),
        rmse=rmse(x, recon),
        snr_db=snr_db(x, recon),
        prdn_percent=prdn(x, recon),
        worst=max_abs_error(x, recon),
        peer_bound=bound,
        peers=tuple(_peers(x, bound)),
        checks=tuple(_checks(bundle, x, mode, stream, recon)),
    )


# -- promises --------------------------------------------------------------------------------------


def _checks(
    bundle: Bundle, x: Samples, mode: Mode, stream: bytes, recon: Samples
) -> Iterator[Check]:
    def check(name: str, passed: bool, detail: str) -> Check:
        return Check(mode=mode.name, name=name, passed=bool(passed), detail=detail)

    yield check(
        "shape and type come back",
        recon.shape == x.shape and recon.dtype == x.dtype,
        f"{x.dtype.name} {list(x.shape)}",
    )
    error = np.abs(x.astype(np.int64) - recon.astype(np.int64))
    if mode.lossless:
        n = int(np.count_nonzero(error))
        equal = x.tobytes() == recon.tobytes()
        yield check("every bit equal", equal, f"{x.size:,} samples, {n:,} differ")
    elif mode.max_error is not None:
        n = int(np.count_nonzero(error > mode.max_error))
        detail = f"{x.size:,} samples, worst {int(error.max())}, {n:,} beyond"
        yield check(f"every sample within {mode.max_error}", n == 0, detail)
    else:
        limit = max(lossy_rmse(bundle.net, 0))
        length = 1 << 16  # items per frame in a file
        frames = [error[i : i + length] for i in range(0, len(error), length)]
        worst = max(math.sqrt(float(np.mean(np.square(frame, dtype=float)))) for frame in frames)
        yield check(
            "every frame's RMSE within the bundle's limit",
            worst <= limit,
            f"{len(frames)} frames, worst {worst:.2f}, limit {limit:.2f}",
        )
    pieces = StreamEncoder(bundle, grid=(1, 1), **mode.keywords)
    data = b"".join(pieces.write(x[i : i + _ODD_PIECE]) for i in range(0, x.size, _ODD_PIECE))
    data += pieces.close()
    yield check(
        f"written {_ODD_PIECE} samples at a time: the same bytes",
        data == stream,
        f"{len(stream):,} bytes",
    )
    middle = x.size // 2
    part = decode(bundle, stream, start=middle, stop=middle + 100)
    yield check(
        "seeking gives the same samples",
        np.array_equal(part, recon[middle : middle + 100]),
        f"items {middle:,} to {middle + 100:,}",
    )


# -- other coders ----------------------------------------------------------------------------------


def _classical(x: Samples, bound: int) -> tuple[bytes, Samples]:
    stream = encode(None, x, lossless=True) if bound == 0 else encode(None, x, max_error=bound)
    return stream, decode(None, stream)


def _peer_bound(x: Samples, mode: Mode, distortion: float) -> int:
    """The bound for the other coders; for a lossy stream the coarsest with an RMSE no worse."""
    if mode.lossless:
        return 0
    if mode.max_error is not None:
        return mode.max_error
    low, high = 0, max(1, int(4 * distortion))
    while low < high:
        middle = (low + high + 1) // 2
        if rmse(x, _classical(x, middle)[1]) <= distortion:
            low = middle
        else:
            high = middle - 1
    return low


def _peers(x: Samples, bound: int) -> Iterator[Peer]:
    """Our classical mode, and xz and zlib on the samples, rounded where there is a bound."""
    stream, recon = _classical(x, bound)
    yield Peer(
        name="classical mode (no model)",
        family="classical",
        bits_per_sample=bits_per_sample(len(stream), x.size),
        rmse=rmse(x, recon),
    )
    step = 2 * bound + 1
    rounded = np.rint(x.astype(np.float64) / step).astype(np.int16)
    error = rmse(x, rounded.astype(np.int64) * step)
    deltas = np.diff(rounded, prepend=np.zeros(1, np.int16))
    for what, values in (("int16", rounded), ("int16 deltas", deltas)):
        raw = values.astype("<i2").tobytes()
        for family, packed in (
            ("xz", lzma.compress(raw, preset=_XZ_PRESET)),
            ("zlib", zlib.compress(raw, 9)),
        ):
            yield Peer(
                name=f"{family} -9{'e' if family == 'xz' else ''} on {what}",
                family=family,
                bits_per_sample=bits_per_sample(len(packed), x.size),
                rmse=error,
            )


def curve(
    bundle: Bundle, x: Samples, progress: Callable[[float], None]
) -> dict[str, list[dict[str, float]]]:
    """Rate over distortion: the window code at several steps, bounds with and without the model."""
    net = bundle.net
    steps = []
    if net is not None:
        ladder = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
        steps = sorted({round(net.default_step * f) for f in ladder})
        steps = [step for step in steps if net.min_step <= step <= net.max_step]
    bounds = (1, 2, 3, 5, 7, 10)
    lines: dict[str, list[dict[str, float]]] = {"lossy": [], "max_error": [], "classical": []}
    jobs: list[tuple[str, Bundle | None, dict[str, Any]]] = [
        *(("lossy", bundle, {"step": step}) for step in steps),
        *(("max_error", bundle, {"max_error": bound}) for bound in bounds),
        *(("classical", None, {"max_error": bound}) for bound in bounds),
    ]
    for number, (name, model, options) in enumerate(jobs, 1):
        stream = encode(model, x, **options)
        point = {
            **options,
            "bits_per_sample": bits_per_sample(len(stream), x.size),
            "rmse": rmse(x, decode(model, stream)),
        }
        lines[name].append(point)
        progress(number / len(jobs))
    return lines


# -- packets ---------------------------------------------------------------------------------------


def packets_of(bundle: Bundle, x: Samples, mode: Mode) -> dict[str, Any]:
    """Radio packets of 1,024 samples, one by one as on a device: sizes, and milliseconds for each.

    The first packet, which carries the header and opens the model, counts for the rate only.
    """
    n_whole = x.size // PACKET_ITEMS
    pieces = [x[k * PACKET_ITEMS : (k + 1) * PACKET_ITEMS] for k in range(n_whole)]
    promise = PromiseSpec(name=mode.name, keywords=mode.keywords)
    loop, recorder = PacketLoop(bundle, pieces, promise, grid=(1, 1)), Recorder()
    loop.run(recorder)
    n_bytes = sum(loop.sizes) + loop.finish(x[n_whole * PACKET_ITEMS :])
    sizes = loop.sizes[1:]
    result: dict[str, Any] = {
        "frames": len(sizes),
        "bits_per_sample": bits_per_sample(n_bytes, x.size),
        "p50_bytes": float(np.median(sizes)),
        "max_bytes": max(sizes),
    }
    for name, nanoseconds in recorder.taken.items():
        times = Distribution.of(nanoseconds[1:])
        result[f"{name}_p50_ms"] = times.p50_us / 1e3
        result[f"{name}_p99_ms"] = times.p99_us / 1e3
        result[f"{name}_msamples_per_s"] = PACKET_ITEMS / times.mean_us
    return result


# -- memory ----------------------------------------------------------------------------------------


def memory_of(role: str, bundle: str, source: str, mode: Mode) -> dict[str, Any]:
    """Peak memory of a program of its own that only encodes, or only decodes.

    Args:
        role: ``encode`` a .npy or ``decode`` a stream.
        bundle: path of the model.
        source: path of the signal or stream.
        mode: the promise to encode under.

    Returns:
        MiB of the whole process, and over a process that has only imported numpy (None where the
        platform cannot tell), and whether torch or onnx was loaded.

    Raises:
        ModelError: the program failed.
    """
    return file_memory(
        role, bundle, source, {**mode.keywords, "grid": [[1, 1]], "frame_length": PACKET_ITEMS}
    )
