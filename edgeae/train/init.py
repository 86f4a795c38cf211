"""A first recipe for a user's own signal, with the reason of every choice.

``plan`` has the rules; here are the words. A comment beside each value says when to change it.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np

from edgeae.errors import SignalError
from edgeae.signal.base import SignalFile
from edgeae.signal.grid import Grid
from edgeae.signal.probe import Probe, probe
from edgeae.train.plan import Plan, active_channels, plan_recipe, training_grids
from edgeae.train.recipe import parse_recipe

__all__ = ["init_recipe"]

_MIN_ITEMS, _MIN_IMAGES = 1000, 100


def init_recipe(signal: SignalFile, path: str | Path) -> tuple[str, list[str]]:
    """Write a commented recipe for a signal.

    Args:
        signal: as read from ``path``.
        path: the file or folder; goes into the recipe as its data.

    Returns:
        The TOML text, and what was seen and chosen, as sentences.

    Raises:
        SignalError: too little to learn from, or constant.

    Example:
        >>> x = np.rint(300 * np.sin(np.arange(20_000) / 30)).astype(np.int16)
        >>> text, reasons = init_recipe(SignalFile(data=x, rate_hz=360.0), "pump.npy")
        >>> parse_recipe(text).name, reasons[0]
        ('pump', '20,000 samples, 1 channel of int16 at 360 Hz (55.6 s)')
    """
    seen = probe(signal)
    _check(seen, path)
    grids = training_grids(seen)
    plan = plan_recipe(seen)
    reasons = [*_what_was_seen(seen), *_what_was_chosen(seen, plan, grids)]
    text = _toml(signal, path, seen, plan, grids)
    parse_recipe(text)  # a recipe that we write is one that we read
    return text, reasons


def _check(seen: Probe, path: str | Path) -> None:
    need, what = (_MIN_IMAGES, "images") if seen.is_image else (_MIN_ITEMS, "samples")
    if seen.n_items < need:
        raise SignalError(
            f"{path} has {seen.n_items} {what}; a codec needs at least {need} to learn from. "
            "Without a model: edgeae compress none IN OUT --lossless"
        )
    if all(channel.constant for channel in seen.per_channel):
        raise SignalError(f"{path} is constant: there is nothing to learn")


def _what_was_seen(seen: Probe) -> list[str]:
    if seen.is_image:
        said = [
            f"{seen.n_items:,} images of {seen.height} x {seen.width}, {_channels(seen)} of "
            f"{seen.dtype}"
        ]
    else:
        rate = ""
        if seen.rate_hz:
            rate = f" {_rate(seen.rate_hz)} ({_duration(seen.n_items / seen.rate_hz)})"
        said = [f"{seen.n_items:,} samples, {_channels(seen)} of {seen.dtype}{rate}"]
        if not seen.rate_hz:
            said.append("the rate is not known; --rate puts it on record, nothing else needs it")
    own = [c.grid for c in seen.per_channel if not c.constant]
    if seen.grid is not None and seen.grid.step == 1:
        said.append("the samples are whole numbers, and coded as such")
    elif seen.grid is not None:
        said.append(f"every sample is a multiple of {seen.grid.step:.7g}: coded as whole numbers")
    elif all(own):
        steps = ", ".join(dict.fromkeys(f"{g.step:.5g}" for g in own if g))
        said.append(f"every channel has a step of its own ({steps}): coded as whole numbers")
    else:
        said.append(
            "no hidden step in the samples (or not in all channels): they are rounded to 16 bits "
            "over their range, and --lossless will gain little"
        )
    if seen.holes:
        said.append(f"{seen.holes:,} holes (NaN or Inf): kept exactly, at some bytes each")
    quiet = [str(i) for i, c in enumerate(seen.per_channel) if c.constant]
    if quiet:
        said.append(f"channels without any change: {', '.join(quiet)} (they cost next to nothing)")
    wild = sum(c.outliers for c in seen.per_channel)
    if wild > 0.001 * seen.n_items:
        said.append("rare peaks far outside: the nets saturate there, the promises still hold")
    scales = [c.std for _, c in active_channels(seen)]
    if max(scales) > 100 * min(scales):
        said.append(
            "the channels differ more than 100 times in size; one --max-error holds for all of "
            "them, so a codec for each kind may serve better (choose with --columns)"
        )
    return said


def _what_was_chosen(seen: Probe, plan: Plan, grids: list[Grid]) -> list[str]:
    first = active_channels(seen)[0][0]
    unit = grids[first].step
    said = []
    if plan.family == "none":
        said.append("no window code: height and width must be even for one; images are coded by "
                    "the sample prior alone")  # fmt: skip
    elif not seen.is_image:
        smooth = float(np.median([c.smoothness for _, c in active_channels(seen)]))
        period = seen.per_channel[first].period_items
        said.append(
            f"one latent step per {math.prod(plan.strides)} samples, as neighbours correlate "
            f"{smooth:.2f}" + (f"; repeats about every {period} samples" if period else "")
        )
    if plan.family != "none":
        said.append(f"lossy coding aims at an RMSE near {plan.target * unit:.3g}")
    said.append(
        f"--max-error near {seen.suggested_max_error:g} is about the noise; bounds from "
        f"{(plan.bounds[0] - 1) // 2 * unit:.3g} to {(plan.bounds[-1] - 1) // 2 * unit:.3g} are "
        "trained for"
    )
    return said


def _toml(signal: SignalFile, path: str | Path, seen: Probe, plan: Plan, grids: list[Grid]) -> str:
    unit = grids[active_channels(seen)[0][0]].step
    errors = ", ".join(f"{(b - 1) // 2 * unit:.3g}" for b in plan.bounds)
    head = _what_was_seen(seen)[0]
    lines = [
        f"# Made by edgeae init from {Path(path).name}: {head}.",
        "# Fields left out have defaults; --set train.steps=3000 overrides one for a run.",
        f"name = {_quote(_name(path))}",
        f"description = {_quote(head)}",
        "seed = 1",
        "",
        "# The last tenth of every recording is kept for the test, and the tenth before it for",
        "# validation. --data PATH trains the same recipe on another file or folder.",
        "[data]",
        f"source = {_quote(os.path.abspath(path) if os.path.exists(path) else str(path))}",
        *_reading(signal),
        "",
        "# The window code: for lossy coding, the fewest bits at a given RMSE.",
        "[model]",
        f'family = "{plan.family}"',
    ]
    if plan.family != "none":
        lines += [
            f"latent = {plan.latent}  # latent channels: fewer for slow, more for rich signals",
            f"widths = {_list(plan.widths)}  # channels of the layers: the encoder's size",
            f"strides = {_list(plan.strides)}  # their product is the codec's delay",
            f"kernels = {_list(plan.kernels)}",
            "",
            "# Entropy model of the latents, run by encoder and decoder.",
            "[latent_prior]",
            f"width = {plan.prior_width}",
            "",
            "[train]",
            f"steps = {plan.steps}  # more for better rates; training stops early by itself",
            f"batch = {plan.batch}",
            *([] if seen.is_image else [f"crop = {plan.crop}"]),
            "# Bits per sample that one squared index unit is worth. Four times as much about",
            f"# halves the RMSE and costs a bit per sample; now near {plan.target * unit:.3g}.",
            f"distortion_weight = {plan.distortion_weight:g}",
            *(
                []
                if seen.is_image
                else [
                    f"augment = {plan.augment:g}  # octaves of random gain; 0 if it never changes"
                ]
            ),
            "patience = 40",
        ]
    lines += [
        "",
        "# The sample prior: for --max-error and --lossless. Its steps are quantizer steps",
        f"# 2 E + 1 in index units of {unit:.7g}; E of these, in your units: {errors}.",
        "[[sample_prior]]",
        f'kind = "{plan.kind}"',
        f"steps = {_list(plan.bounds)}",
        f"width = {plan.sample_width}  # its size; it runs for every sample, so keep it small",
        f"taps = {plan.taps}  # samples back that it sees",
        f"dilations = {_list(plan.dilations)}",
        f"batch = {plan.sample_batch}",
        *([] if seen.is_image else [f"crop = {min(1024, plan.crop)}"]),
        f"train_steps = {max(1500, plan.steps * 2 // 3)}",
        "",
        "# Moving to integers: quantization-aware fine-tuning.",
        "[quantize]",
        f"steps = {max(300, plan.steps // 5)}",
        f"prior_steps = {max(300, plan.steps // 6)}",
        "rounds = 2",
    ]
    return "\n".join(lines) + "\n"


def _reading(signal: SignalFile) -> list[str]:
    """How the file was read, where the recipe must remember it."""
    meta = signal.meta
    columns = [c["name"] for c in meta.get("columns", []) if "time" not in c]
    lines = (
        [f"columns = {json.dumps(columns, ensure_ascii=False)}"] if 0 < len(columns) < 100 else []
    )
    if meta.get("container") == "npz":
        lines.append(f"key = {_quote(meta['key'])}  # array; a pattern such as *_x takes many")
    if meta.get("container") == "raw":
        lines += [f"dtype = {_quote(meta['dtype'])}", f"channels = {signal.channels}"]
        if signal.rate_hz:
            lines.append(f"rate_hz = {float(signal.rate_hz)!r}")
    return lines


def _name(path: str | Path) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", Path(path).stem.lower()).strip("-")
    return plain or "signal"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(values: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _channels(seen: Probe) -> str:
    return f"{seen.channels} channel{'s' if seen.channels > 1 else ''}"


def _rate(rate_hz: float) -> str:
    return f"at {rate_hz:g} Hz" if rate_hz >= 1 else f"one every {1 / rate_hz:g} s"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
