"""The tables of results/rd.csv and rd-images.csv: rate and distortion beside everything else."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable

from page import RESULTS, Rows, markdown, number, read

OURS, NO_MODEL, TWIN = "edgeae", "edgeae, no model", "twin"
CODERS = (
    *(OURS, NO_MODEL, TWIN, "pcodec", "pcodec, LPC", "FLAC", "libaec", "SZ3", "zstd", "xz"),
    "bzip2",
)
LIBRARIES = CODERS[3:]
SETTINGS = {"frames": "frames of 1,024 samples", "whole": "whole streams"}
LOSSLESS = "lossless"
COARSE = ("5", "10", "20", "1e-3", "3e-3", "1e-2", "3e-2")
TARGETS_DB = (20, 25, 30)


def rd_rows(suite: str = "", setting: str = "") -> Rows:
    """Rows of a suite and setting."""
    return [
        row for row in read("rd") if suite in ("", row["suite"]) and setting in ("", row["setting"])
    ]


def names(rows: Iterable[dict[str, str]], field: str) -> list[str]:
    """The values of a field, in the order of the file."""
    return list(dict.fromkeys(row[field] for row in rows))


def total(rows: Rows, coder: str, bound: str) -> float:
    """Bits per sample over all groups; nan if a group is missing or a sample too far."""
    groups = names(rows, "group")
    own = [row for row in rows if (row["coder"], row["bound"]) == (coder, bound)]
    if {row["group"] for row in own} != set(groups) or any(row["ok"] != "1" for row in own):
        return math.nan
    bits = sum(float(row["bits_per_sample"]) * int(row["n_samples"]) for row in own)
    return bits / sum(int(row["n_samples"]) for row in own)


def ours(rows: Rows, bound: str) -> float:
    """With the suite's model if there is one, else without."""
    found = total(rows, OURS, bound)
    return total(rows, NO_MODEL, bound) if math.isnan(found) else found


def best_library(rows: Rows, bound: str) -> float:
    """The smallest of those that kept the bound."""
    found = [total(rows, coder, bound) for coder in LIBRARIES]
    return min((value for value in found if not math.isnan(value)), default=math.nan)


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else number(str(value), 3)


def suite_table(suite: str, setting: str) -> str:
    """Bits per sample, a row per bound."""
    rows = rd_rows(suite, setting)
    body = []
    for bound in names(rows, "bound"):
        values = {coder: total(rows, coder, bound) for coder in CODERS}
        least = min((v for v in values.values() if not math.isnan(v)), default=math.nan)
        cells = []
        for coder, value in values.items():
            broken = [
                row for row in rows
                if (row["coder"], row["bound"], row["ok"]) == (coder, bound, "0")
            ]  # fmt: skip
            text = ("breaks it" if broken[0]["max_error"] else "cannot") if broken else _cell(value)
            cells.append(f"**{text}**" if value == least else text)
        body.append([bound, *cells])
    return markdown(["bound", *CODERS], body)


def all_suites(setting: str) -> Callable[[], str]:
    """Every suite's table in a setting."""

    def made() -> str:
        parts = []
        for suite in names(rd_rows(setting=setting), "suite"):
            rows = rd_rows(suite, setting)
            first = [row for row in rows if row["bound"] == LOSSLESS and row["coder"] == NO_MODEL]
            n = sum(int(row["n_samples"]) for row in first)
            note = {row["note"] for row in rows if row["coder"] == OURS}
            model = f", {note.pop()}" if note else ", no model yet"
            parts.append(f"**{suite}** · {n:,} samples{model}")
            parts.append(suite_table(suite, setting))
        return "\n\n".join(parts)

    return made


def saving(rows: Rows, bounds: Iterable[str], beside: Callable[[Rows, str], float]) -> float:
    """Mean of 1 - ours / theirs over bounds."""
    ratios = [1 - ours(rows, bound) / beside(rows, bound) for bound in bounds]
    ratios = [r for r in ratios if not math.isnan(r)]
    return statistics.mean(ratios) if ratios else math.nan


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f} %"


def summary() -> str:
    """What is saved, per suite and setting, beside the best library and the twin."""
    body = []
    for suite in names(rd_rows(), "suite"):
        cells = []
        for setting in SETTINGS:
            rows = rd_rows(suite, setting)
            bounds = names(rows, "bound")
            coarse = [bound for bound in bounds if bound in COARSE]
            fine = [bound for bound in bounds if bound not in COARSE]
            for part in (coarse, fine):
                for beside in (best_library, lambda r, b: total(r, TWIN, b)):
                    cells.append(_percent(saving(rows, part, beside)))
        body.append([suite, *cells])
    head = [
        f"{setting}, {part}: less than {than}"
        for setting in SETTINGS
        for part in ("coarse", "fine")
        for than in ("best library", "twin")
    ]
    return markdown(["suite", *head], body)


def worst() -> str:
    """Groups and bounds of frames where the best library takes at least half a percent less."""
    found = []
    for suite in names(rd_rows(), "suite"):
        for group in names(rd_rows(suite, "frames"), "group"):
            rows = [row for row in rd_rows(suite, "frames") if row["group"] == group]
            for bound in names(rows, "bound"):
                us, them = ours(rows, bound), best_library(rows, bound)
                if us > 1.005 * them:
                    which = next(c for c in LIBRARIES if total(rows, c, bound) == them)
                    found.append((us / them, [f"{suite} {group}".strip(), bound, _cell(us),
                                              f"{_cell(them)} ({which})",
                                              f"{100 * (us / them - 1):+.1f} %"]))  # fmt: skip
    body = [row for _, row in sorted(found, key=lambda pair: -pair[0])]
    if not body:
        return "None."
    return markdown(["", "bound", "edgeae", "best library", ""], body)


def speed() -> str:
    """Median over suites, in both settings, at a middling bound."""
    body = []
    for coder in CODERS:
        cells = []
        for setting in SETTINGS:
            rows = [
                row for row in rd_rows(setting=setting)
                if row["coder"] == coder and row["bound"] in ("5", "1e-2")
            ]  # fmt: skip
            for field in ("encode_mb_s", "decode_mb_s"):
                values = [float(row[field]) for row in rows if row[field]]
                cells.append(f"{statistics.median(values):,.1f}" if values else "–")
        body.append([coder, *cells])
    head = [f"{setting}: {verb}" for setting in SETTINGS for verb in ("encode", "decode")]
    return markdown(["MB/s", *head], body)


def models() -> str:
    """What must be there before the first sample, and what it is when spread over the test part."""
    body = []
    for suite in names(rd_rows(), "suite"):
        rows = [row for row in rd_rows(suite, "whole") if row["bound"] == LOSSLESS]
        for coder in (OURS, TWIN):
            own = [row for row in rows if row["coder"] == coder]
            if not own:
                continue
            size = max(int(r["model_bytes"]) for r in own) if coder == OURS else sum(
                int(r["model_bytes"]) for r in own
            )  # fmt: skip
            n = sum(int(row["n_samples"]) for row in own)
            body.append([f"{suite}, {coder}", f"{size:,}", f"{n:,}", f"{8 * size / n:.3f}"])
    head = ["", "bytes of the model", "samples of the test part", "bit/sample if spread over it"]
    return markdown(head, body)


# -- images --------------------------------------------------------------------------------------


def at_psnr(rows: Rows, target: float, field: str = "bytes_per_image") -> float:
    """Bytes per image at a PSNR, between the two settings around it; nan outside of the sweep."""
    points = sorted((float(row["psnr_db"]), size(row, field)) for row in rows if row["psnr_db"])
    for (low, a), (high, b) in itertools.pairwise(points):
        if low <= target <= high:
            share = (target - low) / (high - low) if high > low else 0.0
            return math.exp((1 - share) * math.log(a) + share * math.log(b))
    return math.nan


def size(row: dict[str, str], field: str) -> float:
    """Bytes per image, or what of them is beyond a black image's."""
    value = float(row["bytes_per_image"])
    return value if field == "bytes_per_image" else max(value - float(row["blank_bytes"]), 0.1)


def images_table() -> str:
    """Bytes per image, lossless and at three qualities."""
    parts = []
    every = read("rd-images")
    for suite in names(every, "suite"):
        body = []
        for coder in names((r for r in every if r["suite"] == suite), "coder"):
            rows = [row for row in every if (row["suite"], row["coder"]) == (suite, coder)]
            for bundle in names(rows, "note"):
                own = [row for row in rows if row["note"] == bundle]
                exact = [row for row in own if row["setting"] == LOSSLESS and row["ok"] == "1"]
                cells = []
                for field in ("bytes_per_image", "beyond"):
                    cells.append(number(str(size(exact[0], field)), 1) if exact else "–")
                    lossy = [row for row in own if row["setting"] != LOSSLESS]
                    for target in TARGETS_DB:
                        value = at_psnr(lossy, target, field)
                        cells.append("–" if math.isnan(value) else f"{value:.1f}")
                pairs = [f"{a} / {b}" if a != "–" else "–"
                         for a, b in zip(cells[:4], cells[4:], strict=True)]  # fmt: skip
                body.append([f"{coder}, {bundle}" if bundle else coder, *pairs])
        head = [f"**{suite}**, bytes per image", LOSSLESS, *(f"{db} dB" for db in TARGETS_DB)]
        parts.append(markdown(head, body))
    return "\n\n".join(parts)


def system() -> str:
    """On what it was measured."""
    path = RESULTS / "rd.system.json"
    if not path.exists():
        return ""
    lines: dict[str, list[str]] = {}
    for suite, s in json.loads(path.read_text()).items():
        packages = ", ".join(f"{name} {version}" for name, version in s["packages"].items())
        machine = f"{s['cpu']}, {s['cores']} cores, {s['system']}, Python {s['python']}, {packages}"
        when = f"{s['measured']}, commit {s['commit']}"
        lines.setdefault(f"{machine}; {when}", []).append(f"{suite} ({s.get('load_average', '?')})")
    return "\n".join(f"- {', '.join(suites)}: {line}" for line, suites in lines.items())


RD_TABLES: dict[str, Callable[[], str]] = {
    "rd-system": system,
    "rd-summary": summary,
    "rd-frames": all_suites("frames"),
    "rd-whole": all_suites("whole"),
    "rd-worst": worst,
    "rd-speed": speed,
    "rd-models": models,
    "rd-images": images_table,
}
