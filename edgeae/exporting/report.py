"""The quickstart's report: one HTML page with its pictures inside, and the same numbers as JSON."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeae.errors import EdgeAEError

__all__ = ["REPORT_FORMAT", "write_html", "write_json"]

REPORT_FORMAT = "edgeae-report"

_CSS = """
:root{color-scheme:light dark;--ink:#20262d;--faint:#5d6772;--line:#dfe3e8;--page:#fff;
--panel:#f6f7f9;--good:#0f766e;--bad:#b91c1c;--ours:#1d4ed8}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--faint:#99a3af;--line:#333b45;
--page:#14181d;--panel:#1c2229;--good:#2dd4bf;--bad:#f87171;--ours:#7ba7ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,'Segoe UI','DejaVu Sans',sans-serif}
main{max-width:980px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px}
h2{font-size:19px;margin:46px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
p{margin:8px 0 12px;max-width:74ch}
.lead,.note{color:var(--faint)} .note{font-size:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(205px,1fr));gap:12px;margin:22px 0}
.tile{background:var(--panel);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:27px;line-height:1.15;font-variant-numeric:tabular-nums}
.tile small{font-size:15px;font-weight:500}
.tile span{display:block;font-size:14px} .tile span+span{color:var(--faint)}
img{display:block;width:100%;height:auto;margin:14px 0 6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14.5px;margin:10px 0 14px}
th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--line);text-align:right;
vertical-align:baseline;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--faint);font-size:13px}
th:first-child,td:first-child,.text td,.text th{text-align:left}
td.num{text-align:right!important;font-variant-numeric:tabular-nums}
tr.ours td{color:var(--ours);font-weight:600}
.ok{color:var(--good);font-weight:600} .broken{color:var(--bad);font-weight:600}
pre{background:var(--panel);border-radius:8px;padding:14px 16px;overflow-x:auto;font-size:14px;
line-height:1.6}
sup{line-height:0}
code{font-family:ui-monospace,'SF Mono',Menlo,Consolas,monospace}
"""


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report's numbers."""
    _write(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def write_html(path: Path, report: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        path: the file.
        report: the report's numbers, as ``write_json`` takes them.
        pictures: SVG text of ``zoom``, ``overview``, ``rate`` and ``trade``.
    """
    body = "\n".join(part for section in _SECTIONS for part in section(report, pictures) if part)
    _write(
        path,
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>edgeae quickstart</title><style>{_CSS}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n",
    )


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise EdgeAEError(f"cannot write {path}: {error.strerror or error}") from error


# -- pieces of a page ------------------------------------------------------------------------------


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", ours: int | None = None
) -> str:
    lines = [f'<div class=scroll><table class="{kind}">']
    if head:
        lines.append("<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>")
    for number, row in enumerate(rows):
        mark = " class=ours" if number == ours else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table></div>"])


def _picture(svg: str, words: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{_text(words)}">'


def _tile(number: str, words: str, beside: str) -> str:
    return f"<div class=tile><b>{number}</b><span>{words}</span><span>{beside}</span></div>"


def _bytes(n: float) -> str:
    return f"{n:,.0f} B" if n < 10_000 else f"{n / 1000:,.1f} kB"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``step 5`` before ``step 11``."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split("_")]


def _peer(mode: Mapping[str, Any], family: str) -> Mapping[str, Any]:
    rows = [peer for peer in mode["peers"] if peer["family"] == family]
    best: Mapping[str, Any] = min(rows, key=lambda peer: peer["bits_per_sample"])
    return best


# -- sections --------------------------------------------------------------------------------------


def _top(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    data = report["data"]
    yield "<h1>edgeae quickstart</h1>"
    yield (
        f"<p class=lead>A learned codec for a generated {_text(data['what'])} "
        f"({data['rate_hz']:g} Hz, {data['dtype']}): trained here in "
        f"{report['training']['seconds']:.0f} s, quantized to 8-bit integers, exported to ONNX, "
        f"and tried on {data['test_samples']:,} samples that it was not trained on.</p>"
    )
    tiles = []
    for mode in report["modes"]:
        classical = _peer(mode, "classical")["bits_per_sample"]
        change = 100 * (mode["bits_per_sample"] / classical - 1)
        beside = f"{change:+.0f} % against coding without a model".replace("-", "−")
        words = mode["title"]
        if mode["promise"] == "lossy":
            words += f", {mode['snr_db']:.1f} dB SNR"
        number = f"{mode['bits_per_sample']:.2f} <small>bit/sample</small>"
        tiles.append(_tile(number, words, beside))
    yield "<div class=tiles>" + "".join(tiles) + "</div>"
    checks = report["checks"]
    broken = sum(not check["passed"] for check in checks)
    yield (
        f"<p><span class=ok>All {len(checks)} checks passed.</span> Every sample of every mode was "
        "decoded from the written bytes and compared with the original.</p>"
        if not broken
        else f"<p><span class=broken>{broken} of {len(checks)} checks failed.</span></p>"
    )


def _pictures(report: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>Original and reconstruction</h2>"
    start, rate = report["data"]["zoom_start"], report["data"]["rate_hz"]
    yield (
        f"<p>An eighth of a second, {start / rate:.1f} s into the test part; on the right the "
        "error, with the promised band.</p>"
    )
    yield _picture(pictures["zoom"], "Original and decoded signal, and their difference, per mode")
    yield "<p>And all of it: the signal's range over time, and how often each error occurs.</p>"
    yield _picture(
        pictures["overview"], "The test part over time, and a histogram of the errors of each mode"
    )


def _rates(report: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>Bytes</h2>"
    yield (
        "<p>Bits per sample, all headers included. The general compressors get the samples and "
        "their differences, whichever is smaller; under a bound they get the samples rounded to "
        "it, for a lossy stream the coarsest rounding whose RMSE is no worse.</p>"
    )
    yield _picture(pictures["rate"], "Bits per sample by promise and coder")
    modes = report["modes"]
    rows = [["edgeae, this model", *(f"{mode['bits_per_sample']:.3f}" for mode in modes)]]
    for number, peer in enumerate(modes[0]["peers"]):
        rates = (mode["peers"][number]["bits_per_sample"] for mode in modes)
        rows.append([_text(peer["name"]), *(f"{rate:.3f}" for rate in rates)])
    rows.append(["this model: ratio", *(f"{mode['ratio']:.1f} : 1" for mode in modes)])
    rows.append(["this model: RMSE", *(f"{mode['rmse']:.2f}" for mode in modes)])
    bounded = [_peer(mode, "classical")["rmse"] for mode in modes]
    rows.append(["others: RMSE", *(f"{error:.2f}" for error in bounded)])
    yield _table(("bit/sample", *(_text(mode["title"]) for mode in modes)), rows, ours=0)
    yield "<p>The whole range, from nearly lossless to coarse:</p>"
    yield _picture(pictures["trade"], "Rate over distortion")


def _promises(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>Promises</h2>"
    titles = {mode["name"]: mode["title"] for mode in report["modes"]} | {"device": "On a device"}
    checks = report["checks"]
    before = [None, *(check["mode"] for check in checks)]
    yield _table(
        ("mode", "promise", "found", ""),
        (
            (
                "" if check["mode"] == last else _text(titles[check["mode"]]),
                _text(check["name"]),
                _text(check["detail"]),
                "<span class=ok>holds</span>"
                if check["passed"]
                else "<span class=broken>BROKEN</span>",
            )
            for check, last in zip(checks, before, strict=False)
        ),
        kind="text",
    )


def _device(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>On a device</h2>"
    native = report["system"]["native_coder"]
    yield (
        f"<p>Frames of {report['data']['packet_items']:,} samples, one after the other, on one "
        f"thread of this machine, with the coder in {'C' if native else 'pure Python'}. Memory is "
        "that of a program of its own that does nothing else.</p>"
    )
    rows = []
    for mode in report["modes"]:
        t, m = mode["packets"], mode["memory"]
        rows.append(
            (
                _text(mode["title"]),
                f"{t['encode_p50_ms']:.2f} / {t['encode_p99_ms']:.2f}",
                f"{t['decode_p50_ms']:.2f} / {t['decode_p99_ms']:.2f}",
                *(
                    f"{m[role]['peak_mib']:.0f} (+{m[role]['over_numpy_mib']:.0f})"
                    if m[role]["peak_mib"] is not None
                    else "unknown"
                    for role in ("encode", "decode")
                ),
                f"{t['p50_bytes']:,.0f} / {t['max_bytes']:,}",
                f"{t['bits_per_sample']:.3f}",
            )
        )
    yield _table(
        (
            "mode",
            "encode ms<br>p50 / p99",
            "decode ms<br>p50 / p99",
            "encoder MiB<br>(over numpy)",
            "decoder MiB<br>(over numpy)",
            "radio packet B<br>p50 / max",
            "as packets<br>bit/sample",
        ),
        rows,
    )
    quiet = "" if report["system"]["load_per_core"] is None else _load(report)
    yield (
        "<p class=note>Latency depends on the machine and on what else runs on it"
        f"{quiet}. A packet decodes without any other.</p>"
    )


def _load(report: Mapping[str, Any]) -> str:
    return f" (load per core during the run: {report['system']['load_per_core']:.1f})"


def _model(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>The model</h2>"
    model = report["model"]
    parts: dict[str, list[str]] = {}
    for key, value in model["cost"].items():
        for ending, column in (("_parameters", 0), ("_macs_per_sample", 1)):
            if key.endswith(ending):
                cells = parts.setdefault(key.removesuffix(ending), ["", ""])
                cells[column] = f"{value:,.0f}"
    yield _table(
        ("net", "parameters", "multiply-adds per sample"),
        ((_text(name.replace("_", " ")), *cells) for name, cells in parts.items()),
    )
    yield (
        f"<p>Exact: {'yes, by a certificate of ' if model['exact'] else 'no'}"
        f"{model['certified_sums'] if model['exact'] else ''}"
        f"{' sums below 2<sup>24</sup>; every machine computes the same bits' * model['exact']}. "
        f"Fingerprint <code>{_text(model['fingerprint'])}</code>.</p>"
    )
    rows = []
    for part, found in report["training"]["quantization"].items():
        for key in sorted(found["change_percent"], key=_natural):
            change = found["change_percent"][key]
            rows.append(
                (
                    _text(f"{part.replace('_', ' ')}: {key.replace('_', ' ')}"),
                    f"{found['float'][key]:.3f}",
                    f"{found['dyadic'][key]:.3f}",
                    f"{change:+.2f} %",
                )
            )
    yield "<p>What quantization cost, on validation data after fine-tuning:</p>"
    yield _table(("", "float", "8-bit integers", "change"), rows)
    yield "<p>Sizes of what was made:</p>"
    sizes = report["sizes"]
    yield _table(
        ("file", "size"),
        (
            *((f"<code>{_text(name)}</code>", _bytes(n)) for name, n in sizes["files"].items()),
            ("bundle as one .zip", _bytes(sizes["bundle_zip_bytes"])),
        ),
    )


def _system(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>Where and how</h2>"
    system = report["system"]
    seconds = report["seconds"]
    rows = [(_text(k.replace("_", " ")), _text(v)) for k, v in system["versions"].items()]
    rows = [
        ("machine", _text(system["machine"])),
        ("processor", f"{_text(system['processor'])}, {system['cores']} cores"),
        *rows,
        ("coder", "C extension" if system["native_coder"] else "pure Python"),
        ("recipe", f"<code>{_text(report['recipe']['name'])}</code>, seed {report['seed']}"),
        *((f"seconds: {_text(name)}", f"{s:.1f}") for name, s in seconds.items()),
    ]
    yield _table((), rows, kind="text")


def _yours(report: Mapping[str, Any], _: Mapping[str, str]) -> Iterable[str]:
    yield "<h2>The same with your own file</h2>"
    yield "<pre><code>" + _text("\n".join(report["commands"])) + "</code></pre>"


_SECTIONS = (_top, _pictures, _rates, _promises, _device, _model, _yours, _system)
