"""Denoisers beside what pip offers, on the same mixtures in one run.

    EDGEAE_DATA=... python bench/denoise [ecg] [images] [speech] [vibration] [robust]
    python bench/denoise --quick        a part of everything, written nowhere

Ours runs as deployed: the exported integer nets of export/models/denoise-*, through
``edgeae.denoise``. Test material is disjoint from all training by record, image, voice, noise file
and mounting; every mixture is seeded. Peers that are not installed are skipped with a line that
says what to install. One thread. Writes bench/results/denoise.csv and denoise.system.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import common
from common import Row, say
from suite import one_thread


def suites(quick: bool, slow: bool, models: Path) -> dict[str, Callable[[], Iterator[Row]]]:
    """The tasks; imported when they run, for each needs others of the peers."""

    def waves(task: str) -> Iterator[Row]:
        there, missing = common.usable(task, "pywt", "PyWavelets")
        yield from missing
        if there:
            import waves

            yield from waves.rows(task, quick=quick, models=models)

    def images() -> Iterator[Row]:
        import images

        yield from images.rows(quick=quick, slow=slow, models=models)

    def speech() -> Iterator[Row]:
        import voices

        yield from voices.rows(quick=quick, models=models)

    def robust() -> Iterator[Row]:
        import robust

        yield from robust.rows(quick=quick, models=models)

    return {
        "ecg": lambda: waves("ecg"),
        "images": images,
        "speech": speech,
        "vibration": lambda: waves("vibration"),
        "robust": robust,
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="a part of everything, not written")
    parser.add_argument("--without-bm3d", action="store_true", help="which takes minutes")
    parser.add_argument("--models", type=Path, default=common.MODELS, help="folder of bundles")
    options = parser.parse_args()
    every = suites(options.quick, not options.without_bm3d, options.models)
    if unknown := set(options.tasks) - set(every):
        parser.error(f"no such task: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    one_thread()
    began = time.perf_counter()
    for task in options.tasks or every:
        rows = list(every[task]())
        say(f"{task}: {time.perf_counter() - began:.0f} s")
        if not options.quick:
            common.file_rows(task, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
