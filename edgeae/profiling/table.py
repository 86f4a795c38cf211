"""A result as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeae.profiling.profile import Profile
from edgeae.profiling.svg import us

__all__ = ["lines_of"]

_START = {
    "python_ms": "python",
    "import_ms": "imports",
    "load_ms": "load",
    "first_frame_ms": "first frame",
}


def lines_of(profile: Profile) -> Iterator[str]:
    """The figures, a compact table for each kind."""
    data = profile.data
    subject, about = data["subject"], data["machine"]
    load = about["load_average"]
    yield (
        f"{subject['name']} {subject['fingerprint']}, engine {subject['engine']}, "
        f"{data['options']['threads']} thread(s), extension "
        f"{'built' if about['extension_built'] else 'not built'}"
    )
    yield f"on {about['cpu']}, {about['cores_allowed']} of {about['cores']} core(s)" + (
        f", load {load[0]:g}" if load else ""
    )
    yield from _input(data)
    yield ""
    yield from _latency(data["latency"])
    if data.get("batch") or data.get("file"):
        yield ""
        yield from _throughput(data)
    yield ""
    yield from _starts(data["start"])
    yield from _memory(data["memory"], data["growth"])
    yield from _sizes(data)


def _input(data: Mapping[str, Any]) -> Iterator[str]:
    told, options = data["input"], data["options"]
    if "items" in told:
        rate = f" at {told['rate_hz']:g} Hz" if told["rate_hz"] else ""
        yield (
            f"frames of {options['frame_items']} x {told['samples_per_item']} {told['dtype']}"
            f"{rate}; {told['source']}"
        )
    else:
        shapes = ", ".join(f"{name} {shape}" for name, shape in told["shapes"].items())
        yield f"one call on {shapes}, {told['source']}"


def _latency(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    columns = ("p50", "p90", "p99", "max")
    yield f"{'latency':42}" + "".join(f"{name:>10}" for name in columns) + f"{'mean':>10}"
    for row in rows:
        whole = row["whole"]
        times = "".join(f"{us(whole[f'{name}_us']):>10}" for name in columns)
        end = f"  n {whole['n']:,}"
        if row.get("real_time_factor"):
            end += f", {row['real_time_factor']:,.4g} x real time"
        yield f"{row['promise'] + ', ' + row['direction']:42}{times}{us(whole['mean_us']):>10}{end}"
        for stage in row.get("stages", ()):
            times = "".join(f"{us(stage[f'{name}_us']):>10}" for name in columns)
            yield (
                f"    {stage['stage']:38}{times}{us(stage['mean_us']):>10}"
                f"{stage['share_percent']:6.1f} %"
            )
        if "traced_mean_us" in row:
            yield (
                f"    {'= sum of the stages':38}{'':40}{us(row['traced_mean_us']):>10}   100 %, "
                f"with tracing, {row['tracing_costs_percent']:+.1f} % at p50"
            )


def _throughput(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'throughput':42}{'per s':>12}{'a frame':>12}{'x real time':>14}"
    for row in (*data.get("batch", ()), *data.get("file", ())):
        n = row.get("frames_per_call")
        what = f"{n} frame(s) a call" if n else f"file of {row['items']:,}"
        frame = us(row["frame_p50_us"]) if n else ""
        real = row.get("real_time_factor")
        yield (
            f"{row['promise'] + ', ' + row['direction'] + ', ' + what:42}"
            f"{_short(row.get('samples_per_s', row['items_per_s'])):>12}{frame:>12}"
            f"{'' if real is None else format(real, ',.4g'):>14}"
        )


def _starts(start: Mapping[str, Any]) -> Iterator[str]:
    for row in start["cold"]:
        parts = ", ".join(f"{words} {row[key]:.0f}" for key, words in _START.items())
        yield (
            f"{'cold start, ' + row['role']:26}{row['p50_ms']:7.0f} ms"
            f"   ({parts}; {row['min_ms']:.0f} to {row['max_ms']:.0f} in {row['n']} processes)"
        )
    warm = start.get("warm")
    if warm:
        yield (
            f"{'warm start':26}{warm['p50_ms']:7.1f} ms   "
            f"(load {warm['load_ms']:.1f}, then one frame)"
        )


def _memory(memory: Mapping[str, Any], growth: Mapping[str, Any]) -> Iterator[str]:
    if memory["interpreter_kib"] is None:
        yield f"{'memory':26}unknown: this platform does not tell"
        return
    before = 0
    names = ("interpreter", "numpy", "import", "load")
    parts = []
    for name in names:
        value = memory[f"{name}_kib"]
        parts.append(f"{name} {value - before:+,}" if before else f"{name} {value:,}")
        before = value
    yield f"{'resident memory':26}{before:7,} KiB  ({', '.join(parts)})"
    for name in [key.removesuffix("_steady_kib") for key in memory if key.endswith("_steady_kib")]:
        steady, peak = memory[f"{name}_steady_kib"], memory[f"{name}_peak_kib"]
        yield (
            f"{'  ' + name:26}{steady:7,} KiB  after {memory['steady_frames']} frames, "
            f"peak {peak:,} KiB"
        )
    yield (f"{'  growth':26}{growth['growth_kib'] or 0:7,} KiB  over {growth['n_frames']:,} frames")


def _sizes(data: Mapping[str, Any]) -> Iterator[str]:
    sizes = data["artefacts"]
    parts = ", ".join(f"{name} {n:,}" for name, n in sizes["files_bytes"].items())
    yield f"{'files':26}{sizes['device_bytes']:7,} B of {sizes['total_bytes']:,} are read to code"
    yield f"    {parts}"
    for row in data["nets"]:
        if "macs" not in row:
            yield f"{row['net']:26}not counted: {row['uncounted']}"
            continue
        times = ""
        if "run_p50_us" in row:
            times = f", alone {us(row['run_p50_us'])} on {row['engine']}"
        if "bare_p50_us" in row:
            times += f" (bare {us(row['bare_p50_us'])})"
        yield (
            f"{row['net']:26}{_short(row['macs']):>7} MAC, {row['parameters']:,} parameters, "
            f"{row['weight_bytes']:,} B weights, {row['arena_bytes']:,} B arena{times}"
        )
    for row in data.get("priors", ()):
        yield (
            f"{row['prior']:26}{_short(row['macs']):>7} MAC, {row['parameters']:,} parameters, "
            f"{row['steps_per_frame']:,} steps a frame"
        )


def _short(value: float) -> str:
    """A number with three digits.

    Example:
        >>> _short(950), _short(1_234_567)
        ('950', '1.23 M')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
