"""The parts of a bench: stages add up, nothing stays wrapped, frames fit, pages hold together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import edgeae
from edgeae.errors import ConfigError, ModelError, SignalError
from edgeae.profiling import frames as frames_module
from edgeae.profiling.blocks import MIN_ROUNDS, measure
from edgeae.profiling.distribution import Distribution, histogram
from edgeae.profiling.frames import frames_of
from edgeae.profiling.graph_runs import feed_for
from edgeae.profiling.options import BenchOptions, parse_shape
from edgeae.profiling.packets import PacketLoop, promises_of
from edgeae.profiling.process import growth_kib, run_fresh
from edgeae.profiling.recorder import Probe, Recorder, StageClock, TracingRecorder
from edgeae.profiling.rss import peak_kib, rss_kib
from edgeae.profiling.stages import REST, STAGES
from edgeae.profiling.svg import bars, histogram_plot, line_plot, us
from edgeae.runtime.onnx_file import OnnxValue

MODELS = Path(__file__).resolve().parent.parent / "export" / "models"
ALL_PROBES = [probe for stages in STAGES["codec"].values() for probe in stages]


@pytest.fixture(scope="module")
def ecg():
    return edgeae.load(MODELS / "ecg-own")


def block_of(bundle, keywords_name, n=2):
    frames = frames_of(bundle)
    (promise,) = (p for p in promises_of(bundle) if p.name.startswith(keywords_name))
    return PacketLoop(bundle, frames.pieces(n), promise, grid=list(bundle.signal.grids))


# -- stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", ALL_PROBES, ids=lambda p: f"{p.module}.{p.name}")
def test_every_probe_finds_its_function(probe):
    assert callable(probe.resolve()[2])


def test_no_function_stays_wrapped():
    before = [probe.resolve()[2] for probe in ALL_PROBES]
    with StageClock(ALL_PROBES):
        assert all(probe.resolve()[2] is not b for probe, b in zip(ALL_PROBES, before, strict=True))
    assert [probe.resolve()[2] for probe in ALL_PROBES] == before

    def fail_while_open():
        with StageClock(ALL_PROBES):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_while_open()
    assert [probe.resolve()[2] for probe in ALL_PROBES] == before


class _Ticks:
    """A clock that moves when it is told to."""

    now = 0

    def __call__(self):
        return self.now


class _Work:
    """Nested work on ticks: outer takes 10 by itself, and calls inner, which takes 7, twice."""

    ticks = _Ticks()

    def outer(self):
        self.ticks.now += 10
        self.inner()
        self.inner()

    def inner(self):
        self.ticks.now += 7


def test_a_stage_counts_without_the_stages_inside():
    probes = [
        Probe(module=__name__, name="_Work.outer", stage="outer"),
        Probe(module=__name__, name="_Work.inner", stage="inner"),
    ]
    with StageClock(probes, _Work.ticks) as stages:
        recorder = TracingRecorder(stages, _Work.ticks)
        recorder.time("there", _Work().outer)
        recorder.time("back", _Work().inner)
    assert recorder.taken == {"there": [24], "back": [7]}
    assert recorder.stages == {"there": [{"outer": 10, "inner": 14}], "back": [{"inner": 7}]}


@pytest.mark.parametrize("promise", ["lossy", "max error", "lossless"])
def test_stages_and_rest_add_up_to_the_whole(ecg, promise):
    found = measure([block_of(ecg, promise)], STAGES["codec"], budget_s=0.0, reference=lambda: 1000)
    assert [m.direction for m in found] == ["encode", "decode"]
    for measured in found:
        row = measured.to_json()
        assert len(row["blocks"]) == MIN_ROUNDS
        names = [stage["stage"] for stage in row["stages"]]
        assert names[-1] == REST
        assert "framing" in names
        assert sum(s["mean_us"] for s in row["stages"]) == pytest.approx(
            row["traced_mean_us"], abs=0.05
        )
        assert sum(s["share_percent"] for s in row["stages"]) == pytest.approx(100, abs=0.2)


def test_the_nets_are_among_the_stages(ecg):
    encode, decode = measure(
        [block_of(ecg, "lossy")], STAGES["codec"], budget_s=0.0, reference=lambda: 1000
    )
    assert {"analysis net", "synthesis net"} <= {name for row in encode.stages for name in row}
    assert "synthesis net" in {name for row in decode.stages for name in row}


def test_tracing_changes_no_byte(ecg):
    plain, traced = (block_of(ecg, "max error") for _ in range(2))
    with StageClock(ALL_PROBES):
        found = traced.packets()
    assert found == plain.packets()


# -- numbers ---------------------------------------------------------------------------------------


def test_percentiles_are_in_order():
    times = Distribution.of(np.random.default_rng(0).integers(1, 10**6, 1000))
    row = times.to_json()
    order = [row[f"{name}_us"] for name in ("min", "p50", "p90", "p99", "max")]
    assert order == sorted(order)
    assert times.n == 1000


@pytest.mark.parametrize("times", [[5], [7, 7, 7], [0, 0], [1, 10**9], list(range(1, 500))])
def test_a_histogram_counts_every_call(times):
    found = histogram(times)
    assert sum(found["counts"]) == len(times)
    assert len(found["edges_us"]) == len(found["counts"]) + 1
    assert found["edges_us"] == sorted(found["edges_us"])


def test_growth_leaves_the_warm_up_aside():
    assert growth_kib([[1, 0, 100], [300, 1, 900], [500, 2, 950]], 300) == 50
    assert growth_kib([[1, 0, None], [500, 2, None]], 300) is None
    assert growth_kib([], 300) is None


def test_memory_can_be_told_on_linux():
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    assert 1000 < rss_kib() <= peak_kib() + 1024


# -- frames ----------------------------------------------------------------------------------------


def test_frames_come_from_the_golden_vector(ecg):
    frames = frames_of(ecg)
    assert frames.items == 1024
    assert "golden" in frames.source
    pieces = frames.pieces(8)
    assert len(pieces) == 8
    assert all(piece.shape == (1024,) and piece.dtype == np.int16 for piece in pieces)


@pytest.mark.parametrize("name", ["digits", "imu", "mnist", "mnist-dense", "power"])
def test_every_kind_of_bundle_has_frames_that_can_be_coded(name):
    bundle = edgeae.load(MODELS / name)
    frames = frames_of(bundle)
    promise = promises_of(bundle)[0]
    loop = PacketLoop(bundle, frames.pieces(2), promise, grid=list(bundle.signal.grids))
    recorder = Recorder()
    loop.run(recorder)
    assert {key: len(value) for key, value in recorder.taken.items()} == {"encode": 2, "decode": 2}
    assert all(loop.sizes)


def test_frames_come_from_a_file(ecg, tmp_path):
    x = np.arange(5000, dtype=np.int16) % 700
    np.save(tmp_path / "my.npy", x)
    frames = frames_of(ecg, path=str(tmp_path / "my.npy"), frame_items=500)
    assert frames.source == "my.npy"
    assert np.array_equal(np.concatenate(frames.pieces(10)), x)


def test_files_that_do_not_fit_are_refused(ecg, tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(10, np.int16))
    with pytest.raises(SignalError, match="10 items, a frame has 1024"):
        frames_of(ecg, path=str(tmp_path / "short.npy"))
    np.save(tmp_path / "wide.npy", np.zeros((2000, 3), np.int16))
    with pytest.raises(SignalError, match="1 channel"):
        frames_of(ecg, path=str(tmp_path / "wide.npy"))


def test_long_signals_are_cut(ecg, monkeypatch):
    monkeypatch.setattr(frames_module, "_MAX_SAMPLES", 2048)
    assert len(frames_of(ecg).whole) == 2048


def test_promises_of_bundles(ecg):
    assert [p.name for p in promises_of(ecg)] == ["lossy", "max error 5", "lossless"]
    assert [p.name for p in promises_of(ecg, 2.0)] == ["lossy", "max error 2", "lossless"]
    assert [p.name for p in promises_of(edgeae.load(MODELS / "mnist-dense"))] == ["lossy"]
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="bound above 0"):
            promises_of(ecg, bad)


# -- options and shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"batch": 0},
        {"frame_items": 0},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"growth_frames": 1},
    ],
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        BenchOptions(**wrong)


@pytest.mark.parametrize("text", ["x=a,b", "x=0,3", "x=-1", "=1,2", "x=1,,2", "x=1073741825"])
def test_bad_shapes(text):
    with pytest.raises(ConfigError, match="no shape"):
        parse_shape(text)


def test_free_axes_are_filled():
    f4, i8 = np.dtype("<f4"), np.dtype("<i8")
    graph = (
        OnnxValue(name="x", dtype=f4, shape=("batch", 3, None)),
        OnnxValue(name="n", dtype=i8, shape=(2,)),
    )
    feed = feed_for(graph, {"x": (4, 3, 5)})
    assert feed["x"].shape == (4, 3, 5)
    assert feed["n"].tolist() == [0, 0]
    assert feed_for(graph, {})["x"].shape == (1, 3, 1)
    whole = feed_for(graph, {"x": (64, 3, 5)}, peak=50)["x"]
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() == 50
    for shapes, words in (
        ({"x": (4, 2, 5)}, "takes"),
        ({"x": (4, 3)}, "takes"),
        ({"y": (1,)}, "no input 'y'"),
        ({"": (1,)}, "NAME=SHAPE"),
    ):
        with pytest.raises(ConfigError, match=words):
            feed_for(graph, shapes)


def test_inputs_that_are_no_tensors_are_refused():
    with pytest.raises(ModelError, match="'x'"):
        feed_for([OnnxValue(name="x", dtype=None, shape=None)], {})


# -- fresh processes -------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_the_first_step():
    code = "import edgeae.profiling.child, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_failure_in_a_fresh_process_says_why():
    with pytest.raises(ModelError, match="nowhere"):
        run_fresh(
            {
                "role": "load",
                "graph": False,
                "model": "nowhere",
                "source": "",
                "keywords": {},
                "load": {},
                "imports": [],
                "n_frames": 1,
                "seconds": None,
            }
        )


# -- plots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plot",
    [
        histogram_plot([1, 2, 4, 8], [3, 0, 1], [("p50", 1.5)], 'a "name" & more'),
        histogram_plot([5, 5.25], [1], [], "one"),
        line_plot([(1, 60.0), (500, 60.5)], "MiB", "memory"),
        bars([("a <b>", [("x", 1.0), ("y", 2e6)]), ("c", [("x", 0.0)])], "stages"),
    ],
)
def test_plots_are_well_formed(plot):
    quoted = re.sub(r" (class|role|text-anchor)=(\w+)", r' \1="\2"', plot)
    assert ElementTree.fromstring(quoted).tag == "svg"


def test_times_in_words():
    assert [us(x) for x in (0.5, 999, 1500, 2e6)] == ["0.5 µs", "999 µs", "1.5 ms", "2 s"]


def test_the_clock_is_the_usual_one():
    recorder = Recorder()
    recorder.time("nap", time.sleep, 0.001)
    assert recorder.taken["nap"][0] > 0
    assert json.dumps(recorder.taken)
