"""The model card: README.md of a bundle, for the person who finds it on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["card_with_files", "denoiser_card", "model_card"]

_FILES = "## Files"


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {a} | {b} |" for a, b in rows)


def _signal_line(codec: Mapping[str, Any]) -> str:
    signal = codec["signal"]
    if signal["kind"] == "image":
        return f"images {signal['height']}×{signal['width']}×{signal['channels']}"
    rate = f" at {signal['rate_hz']:g} Hz" if signal.get("rate_hz") else ""
    return f"{signal['channels']} channel(s){rate}"


def model_card(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """The card's Markdown.

    Args:
        manifest: the manifest's content, before it is sealed.
        files: the bundle's files by name.
    """
    codec, metrics = manifest["codec"], manifest["metrics"]
    steps = ", ".join(sorted({f"{num}/{den}" for num, den in codec["signal"]["grids"]}))
    rows = [
        ("signal", _signal_line(codec)),
        ("samples", f"{codec['signal']['dtype']}, grid step {steps}"),
        ("exact", "yes, by certificate" if manifest["exact"] else "no: lossy coding only"),
    ]
    code = metrics.get("window_code")
    if code:
        rows.append(
            (
                "lossy, on validation data",
                f"{code['bits_per_sample']:.3f} bit/sample at RMSE {code['rmse']:.3g} grid steps",
            )
        )
    example = metrics.get("example")
    if example:
        rows.append(
            (
                "lossy, on the example",
                f"{example['bits_per_sample']:.3f} bit/sample at RMSE {example['rmse']:.3g} "
                "grid steps",
            )
        )
    for i, prior in enumerate(codec["sample_priors"]):
        rows.append(
            (
                f"sample prior {i}",
                f"max error {prior['delta_min'] // 2} to {prior['delta_max'] // 2} grid steps"
                + (", with the window code" if prior["has_code"] else ""),
            )
        )
    if "training_seconds" in metrics:
        rows.append(("training", f"{metrics['training_seconds'] / 60:.1f} minutes"))
    lines = [f"# {manifest['name']}", "", _description(manifest), "", _table(rows), ""]
    lines += _proof_and_cost(manifest)
    lines += [_FILES, "", _file_table(files), "", "## Use", "", "```sh"]
    lines += [
        "edgeae compress BUNDLE recording.npy recording.eae"
        + (" --max-error 5" if manifest["exact"] else ""),
        "edgeae decompress BUNDLE recording.eae back.npy",
        "edgeae verify BUNDLE",
        "```",
        "",
    ]
    return "\n".join(lines)


def denoiser_card(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Likewise for a denoiser.

    Args:
        manifest: the manifest's content, before it is sealed.
        files: the bundle's files by name.
    """
    spec, metrics = manifest["denoise"], manifest["metrics"]
    signal = spec["signal"]
    image = spec["family"] == "image"
    told = f"images of {signal['channels']} channel(s)" if image else _signal_line(spec)
    rows = [("cleans", told), ("samples", signal["dtype"])]
    if image:
        rows.append(("noise level", "told to it (sigma)" if spec["sigma"] else "found by itself"))
    else:
        delay, rate = spec["delay_samples"], signal.get("rate_hz")
        rows.append(
            ("delay", f"{delay} samples" + (f", {1e3 * delay / rate:.1f} ms" if rate else ""))
        )
    exact = "yes, by certificate" if manifest["exact"] else "no"
    if spec["family"] == "speech":
        exact += "; the transform around the net may differ in a float's last bits"
    rows.append(("exact", exact))
    lines = [f"# {manifest['name']}", "", _description(manifest), "", _table(rows), ""]
    told_metrics = [(k.replace("_", " "), f"{v:g}") for k, v in sorted(_numbers(metrics))]
    if told_metrics:
        lines += ["## Measured", "", _table(told_metrics), ""]
    lines += _proof_and_cost(manifest)
    lines += [_FILES, "", _file_table(files), "", "## Use", "", "```sh"]
    if image:
        sigma = " --sigma 25" if spec["sigma"] else ""
        lines.append(f"edgeae denoise BUNDLE noisy.png clean.png{sigma}")
    else:
        ending = "wav" if spec["family"] == "speech" else "npy"
        lines.append(f"edgeae denoise BUNDLE noisy.{ending} clean.{ending}")
    lines += ["edgeae verify BUNDLE", "```", ""]
    return "\n".join(lines)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of nested metrics, by path."""
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + key, value))
    return found


def _proof_and_cost(manifest: Mapping[str, Any]) -> list[str]:
    lines = []
    certificate = manifest.get("certificate", [])
    if certificate:
        tightest = min(certificate, key=lambda c: c["headroom_bits"])
        lines += [
            "## Certificate",
            "",
            f"{len(certificate)} sums were bounded below 2^24; the tightest, {tightest['node']} of "
            f"{tightest['graph']}, leaves {tightest['headroom_bits']:.2f} bits. The full list is "
            "in `manifest.json`; `edgeae verify` recomputes it from the graphs.",
            "",
        ]
    cost = manifest.get("cost", {})
    if cost:
        lines += ["## Cost", "", _table([(k.replace("_", " "), f"{v:g}") for k, v in cost.items()])]
        lines.append("")
    return lines


def card_with_files(card: str, files: Mapping[str, bytes]) -> str:
    """A card with the table of these files in place of its own; as it is where it has none.

    Args:
        card: the card's Markdown.
        files: the bundle's files by name.
    """
    head, found, rest = card.partition(f"{_FILES}\n\n")
    _, ended, tail = rest.partition("\n\n")
    if not (found and ended):
        return card
    return f"{head}{found}{_file_table(files)}\n\n{tail}"


def _file_table(files: Mapping[str, bytes]) -> str:
    told = {name: data for name, data in files.items() if name not in ("README.md", "golden.npz")}
    return _table([(name, f"{len(data):,} bytes") for name, data in sorted(told.items())])


def _description(manifest: Mapping[str, Any]) -> str:
    kind = "denoiser" if manifest["task"] == "denoise" else "codec"
    text = manifest.get("recipe", {}).get("description") or f"A {kind} made with edgeae."
    return str(text)
