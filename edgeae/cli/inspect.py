"""``edgeae inspect``: what a stream or a bundle is, without needing the model."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from edgeae.cli.base import command, fail, note, print_json
from edgeae.errors import SignalError, StreamError

__all__: list[str] = []


@command("inspect")
def inspect(
    path: str = typer.Argument(..., metavar="FILE", help="A stream or a bundle."),
    frames: bool = typer.Option(False, "--frames", help="List every frame of a stream."),
    as_json: bool = typer.Option(False, "--json", help="Print as JSON."),
) -> None:
    """Explain a stream or a bundle."""
    where = Path(path)
    if not where.exists():
        raise SignalError(f"{path}: there is no such file")
    if where.is_dir() or zipfile.is_zipfile(where):
        _inspect_bundle(path, as_json)
    else:
        _inspect_stream(path, frames, as_json)


def _inspect_stream(path: str, frames: bool, as_json: bool) -> None:
    from edgeae.bitstream.reader import FrameReader

    error: StreamError | None = None
    rows: list[dict[str, Any]] = []
    totals: dict[str, dict[str, int]] = {}
    n_items, n_lost = 0, 0
    with open(path, "rb") as file:
        reader = FrameReader(file)
        header = reader.header
        lines = frames and not as_json
        if not as_json:
            _print_header(path, header)
        if lines:
            print(f"\n{'frame':>7} {'item':>11} {'items':>7} {'mode':<15} {'bytes':>9}  bit/sample")
        try:
            for number, frame in enumerate(reader):
                size = len(frame.payload) + len(frame.exceptions)
                mode = frame.mode.name.lower()
                total = totals.setdefault(mode, {"frames": 0, "items": 0, "payload_bytes": 0})
                total["frames"] += 1
                total["items"] += frame.n_items
                total["payload_bytes"] += size
                n_items = max(n_items, frame.start + frame.n_items)
                n_lost += frame.lost_items
                bits = 8 * size / (frame.n_items * header.samples_per_item)
                if lines:
                    name = mode + (f"/{frame.variant}" if frame.variant else "")
                    print(
                        f"{number:7} {frame.start:11} {frame.n_items:7} {name:<15} {size:9}"
                        f"  {bits:10.3f}"
                        + (f"  {len(frame.exceptions)} of exceptions" if frame.exceptions else "")
                        + (f"  after {frame.lost_items} lost items" if frame.lost_items else "")
                    )
                elif frames:
                    rows.append(
                        {
                            "item": frame.start,
                            "items": frame.n_items,
                            "mode": mode,
                            "variant": frame.variant,
                            "payload_bytes": len(frame.payload),
                            "exception_bytes": len(frame.exceptions),
                            "lost_items": frame.lost_items,
                        }
                    )
        except StreamError as broken:
            error = broken
    n_bytes = Path(path).stat().st_size
    n_samples = n_items * header.samples_per_item
    if as_json:
        result: dict[str, Any] = {
            "kind": "stream",
            "header": _header_fields(header),
            "items": n_items,
            "lost_items": n_lost,
            "bytes": n_bytes,
            "bits_per_sample": 8 * n_bytes / n_samples if n_samples else None,
            "modes": totals,
            "complete": error is None,
            "error": None if error is None else str(error),
        }
        if frames:
            result["frames"] = rows
        print_json(result)
    else:
        _print_totals(header, n_items, n_bytes, totals)
        if n_lost:
            note(f"{path}: {n_lost} items were lost on the way")
    if error is not None:
        fail(f"{path}: {error}")


def _print_header(path: str, header: Any) -> None:
    print(f"{path}: edgeae stream, {header.profile.value} profile")
    for name, value in _header_fields(header).items():
        if value not in (None, {}, "") and name != "profile":
            print(f"  {name.replace('_', ' '):<14} {value}")


def _header_fields(header: Any) -> dict[str, Any]:
    return {
        "profile": header.profile.value,
        "dtype": header.dtype,
        "channels": header.channels,
        "image_size": None if header.image_size is None else list(header.image_size),
        "rate_hz": header.rate_hz,
        "grid": _one_or_each([_grid_words(*spec) for spec in header.grids]),
        "promise": header.promise.value,
        "max_error": header.max_error,
        "delta": _one_or_each(header.deltas),
        "latent_step": header.step or None,
        "model": header.fingerprint.hex() or None,
        "exact": header.exact,
        "frame_length": header.frame_length,
        "metadata": header.metadata,
    }


def _grid_words(num: int, den: int, single: bool = False, parsed: bool = False) -> str:
    return f"{num}/{den}" + (" in float32" if single else " as parsed" if parsed else "")


def _one_or_each(values: Sequence[Any]) -> Any:
    """What all channels have, or a list for them."""
    return values[0] if len(set(values)) == 1 else ", ".join(map(str, values))


def _print_totals(header: Any, n_items: int, n_bytes: int, totals: dict[str, Any]) -> None:
    n_samples = n_items * header.samples_per_item
    print(f"\n  {'mode':<16} {'frames':>7} {'items':>11} {'payload':>11}  bit/sample")
    for mode, total in sorted(totals.items()):
        bits = 8 * total["payload_bytes"] / (total["items"] * header.samples_per_item)
        print(
            f"  {mode:<16} {total['frames']:7} {total['items']:11} {total['payload_bytes']:11}"
            f"  {bits:10.3f}"
        )
    payload = sum(total["payload_bytes"] for total in totals.values())
    print(f"\n  {n_items:,} items, {n_samples:,} samples in {n_bytes:,} bytes", end="")
    if n_samples:
        raw = n_samples * header.itemsize
        print(
            f": {8 * n_bytes / n_samples:.3f} bit/sample, {raw / n_bytes:.1f}:1, "
            f"{100 * (n_bytes - payload) / n_bytes:.2f} % besides payload",
            end="",
        )
    print()


def _inspect_bundle(path: str, as_json: bool) -> None:
    from edgeae.runtime.bundle import Bundle

    bundle = Bundle.load(path)
    raw = dict(bundle.manifest.raw)
    sizes = {name: len(content) for name, content in sorted(bundle.files.items())}
    if as_json:
        print_json({"kind": "bundle", "manifest": raw, "file_bytes": sizes})
        return
    spec = bundle.signal
    print(f"{path}: edgeae bundle {bundle.name!r}, fingerprint {bundle.fingerprint.hex()}")
    otherwise = "no: lossy coding only" if bundle.task == "codec" else "no"
    print(f"  exact          {'yes' if bundle.manifest.exact else otherwise}")
    size = f"{spec.height} x {spec.width} pixels, " if spec.height else ""
    rate = f", {spec.rate_hz:g} Hz" if spec.rate_hz else ""
    print(f"  signal         {spec.kind}, {size}{spec.channels} channel(s), {spec.dtype}{rate}")
    grids = _one_or_each([f"{num}/{den}" for num, den in spec.grids])
    print(f"  grid           {grids} {spec.unit}".rstrip())
    if bundle.task == "denoise":
        _print_denoiser(bundle)
    else:
        _print_codec(bundle)
    for name, value in raw.get("metrics", {}).items():
        if not isinstance(value, dict | list):
            print(f"  {name:<14} {value}")
    print("  files          " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()))


def _print_codec(bundle: Any) -> None:
    net = bundle.net
    if net is None:
        print("  window code    none")
    else:
        print(
            f"  window code    {net.latent_channels} latents per {net.stride} items, "
            f"steps {net.min_step}..{net.max_step}, usually {net.default_step}"
        )
    for number, prior in enumerate(bundle.sample_prior_ranges):
        bounds = f"steps {prior.delta_min}..{prior.delta_max}"
        print(f"  sample prior {number} {bounds}, {'on' if prior.has_code else 'without'} the code")


def _print_denoiser(bundle: Any) -> None:
    spec, rate = bundle.denoise, bundle.signal.rate_hz
    print(f"  denoiser       {spec.family}" + (", told sigma" if spec.sigma else ""))
    if spec.family == "image":
        return
    delay = f", {1e3 * spec.delay_samples / rate:.1f} ms" if rate else ""
    print(f"  delay          {spec.delay_samples} samples{delay}")
    held = sum(state.shape[0] * state.shape[1] for state in spec.state)
    print(f"  state          {len(spec.state)} tensors of {held:,} numbers in all")
    if spec.front_end is not None:
        print("  front end      " + ", ".join(f"{k} {v}" for k, v in spec.front_end.items()))
