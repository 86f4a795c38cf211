"""bench/rate_distortion codes what it says, holds every coder to its bound, and keeps its rows."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeae.bitstream.range_coder import RangeEncoder

ROOT = Path(__file__).parent.parent
pytest.importorskip("torch")


@pytest.fixture
def bench(monkeypatch):
    """The folder as a script sees it; its modules are forgotten afterwards."""
    before = set(sys.modules)
    for folder in ("bench", "bench/rate_distortion"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "bench")):
            del sys.modules[name]


@pytest.fixture
def twins(bench, monkeypatch):
    """The twin in plain Python: compiling it takes longer than these tests."""
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    import twin

    kinds = (twin.Kind(0, False, False), twin.Kind(4, False, True), twin.Kind(1, True, False))
    monkeypatch.setattr(twin, "KINDS", kinds)
    monkeypatch.setattr(twin, "PACES", twin.PACES[:2])
    return twin


def walk(n: int, seed: int = 0, scale: float = 6.0) -> np.ndarray:
    """A wandering signal with a few jumps, int64 [n]."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, scale, n) + np.where(rng.random(n) < 0.01, 400 * scale, 0)
    return np.rint(np.cumsum(steps - steps.mean()) + 900).astype(np.int64)


@pytest.mark.parametrize("error", [0, 4])
def test_the_twin_keeps_its_bound_and_writes_the_house_coders_bytes(twins, error):
    twin = twins.fit([walk(400, 1)], 2 * error + 1, length=128)
    x = walk(150, 2)
    data = twins.encode(twin, x)
    decoded = twins.decode(twin, data, len(x))
    assert np.abs(decoded - x).max() <= error
    assert data == _in_the_house_coder(twins, twin, x)


def _in_the_house_coder(twins, twin, x):
    """The twin's symbols through `RangeEncoder`."""
    coder = RangeEncoder()
    ks = twins._residuals(x, twin.taps, twin.mean, twin.delta, twin.lattice)
    activity = twins._activity(ks, *twin.paces, twin.start)
    levels = np.searchsorted(twin.edges, activity, side="right")
    coder.golomb(int(2 * ks[0] if ks[0] >= 0 else -2 * ks[0] - 1), twin.order)
    for k, level in zip(ks[1:].tolist(), levels[1:], strict=True):
        low, table = int(twin.low_bits[level]), twin.cum[level].tolist()
        high = k >> low
        symbol = high + twins.REACH if abs(high) <= twins.REACH else twins.TAIL
        coder.encode(table[symbol], table[symbol + 1] - table[symbol])
        if symbol == twins.TAIL:
            coder.golomb(2 * (abs(high) - twins.REACH - 1) + (high < 0), 3)
        coder.bits(k & ((1 << low) - 1), low)
    return coder.finish()


@pytest.mark.parametrize("n", [1024, 700])
@pytest.mark.parametrize("scale", [0.05, 6.0, 4000.0])
def test_every_library_gives_back_what_it_was_given(bench, n, scale):
    import libraries

    tried = 0
    x = walk(n, 3, scale)
    for library in libraries.LIBRARIES:
        if library.missing:
            assert library.package in library.missing
            continue
        for variant in (*library.frame(), *library.whole()):
            if variant.bounded:
                decoded = variant.decode(variant.encode(x.copy(), 3), n)
                assert np.abs(decoded - x).max() <= 3
            else:
                assert np.array_equal(variant.decode(variant.encode(x.copy()), n), x)
            tried += 1
    assert tried


def _group(suites, x):
    return suites._group([x], [x[:2048]], name="test")


def test_bounds_are_fractions_of_the_training_range_never_more(bench):
    import suites

    x = np.stack([walk(4096), 40 * walk(4096, 1)], axis=1).astype(np.int32)
    group = _group(suites, x)
    assert [bound.name for bound in group.bounds] == [
        *("1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "lossless")
    ]
    narrow = float(np.ptp(x[:, 0]))
    for fraction, bound in zip(suites.FRACTIONS, group.bounds, strict=False):
        assert bound.error == pytest.approx(fraction * narrow)
        for step, grid in zip(group.steps(bound), group.grids, strict=True):
            assert step * grid.step <= bound.error < (step + 1) * grid.step


def test_who_breaks_a_bound_is_told(bench, monkeypatch):
    import libraries
    import measure
    import suites

    honest = libraries.Variant(
        settings="honest", encode=lambda q: q.tobytes(), decode=lambda b, n: np.frombuffer(b, int)
    )
    liar = libraries.Variant(
        settings="liar", encode=lambda q: b"1", decode=lambda b, n: np.zeros(n, np.int64)
    )
    for variants, ok in (([liar], False), ([liar, honest], True)):
        library = libraries.Library(
            name="peer", module="io", package="", frame=lambda v=variants: v, whole=list
        )
        monkeypatch.setattr(measure, "LIBRARIES", [library])
        group = _group(suites, walk(4096))
        rows = list(measure.everything(group, None, "frames", 0, {"peer"}))
        assert [row.ok for row in rows] == [ok] * len(group.bounds)
        assert all(row.bound.error or row.worst == 0 for row in rows if row.ok)


def test_ours_counts_frames_that_decode_alone(bench):
    import measure
    import suites

    group = _group(suites, walk(4096))
    (lossless,) = [
        row for row in measure.everything(group, None, "frames", 0, {measure.NO_MODEL})
        if row.bound.name == "lossless"
    ]  # fmt: skip
    assert lossless.ok
    assert lossless.n_samples == 2048
    assert 0 < lossless.n_bytes < lossless.n_framed


def test_rows_replace_those_of_their_suite_and_coders_alone(bench, monkeypatch, tmp_path):
    script = runpy.run_path(str(ROOT / "bench/rate_distortion/__main__.py"), run_name="loaded")
    write, fields = script["write"], ("suite", "coder", "value")
    monkeypatch.setitem(write.__globals__, "RESULTS", tmp_path)
    write("rd", fields, "gas", [("gas", "FLAC", 1)], {"FLAC", "twin"})
    write("rd", fields, "ecg", [("ecg", "FLAC", 1), ("ecg", "twin", 1)], {"FLAC", "twin"})
    write("rd", fields, "ecg", [("ecg", "twin", 2)], {"twin"})
    with (tmp_path / "rd.csv").open(newline="") as file:
        found = [tuple(row.values()) for row in csv.DictReader(file)]
    assert found == [("ecg", "twin", "2"), ("ecg", "FLAC", "1"), ("gas", "FLAC", "1")]


def test_a_peer_that_broke_its_bound_is_not_the_best(bench):
    import rd_tables

    def row(coder, bits, ok="1", group=""):
        told = SimpleNamespace(coder=coder, bits_per_sample=bits, ok=ok, group=group)
        return vars(told) | {"bound": "1", "n_samples": "10", "max_error": "1"}

    rows = [row("FLAC", "2"), row("SZ3", "1", ok="0"), row("edgeae, no model", "1.5")]
    assert rd_tables.best_library(rows, "1") == 2
    assert rd_tables.ours(rows, "1") == 1.5
    assert np.isnan(rd_tables.total(rows, "SZ3", "1"))
    assert np.isnan(rd_tables.total([*rows, row("FLAC", "1", group="other")], "SZ3", "1"))
