"""The suites that hold edgeae's runtime against others: nothing wrong is timed, or left unsaid."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers

ROOT = Path(__file__).parent.parent
MODULES = ("bars", "float_nets", "latency", "memory", "networks", "peers", "suite", "streams")


class Bench:
    """The modules of bench/ by name."""

    def __init__(self) -> None:
        for name in MODULES:
            setattr(self, name, importlib.import_module(name))


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        yield Bench()


@pytest.fixture(scope="module")
def no_data():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGEAE_DATA", raising=False)
        patch.delenv("EDGEAE_BENCH_CONVERTER", raising=False)
        yield


@pytest.fixture(scope="module", params=["ad01", "ecg-encoder", "ecg-decoder"])
def network(request, bench, no_data, tmp_path_factory):
    if request.param != "ad01" and not (ROOT / "export" / "models" / "ecg").is_dir():
        pytest.skip("no exported model")
    return bench.networks.load_network(
        request.param, convert=False, cache=tmp_path_factory.mktemp("cache")
    )


@pytest.fixture
def results(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.streams, "RESULTS", tmp_path)
    return tmp_path


def test_numpy_and_torch_compute_the_float_net(bench, network):
    graph = network.onnx["fp32"].read_bytes()
    x = network.windows[:3]
    expected = bench.peers.open_onnxruntime(network.onnx["fp32"], x)(x)
    scale = np.abs(expected).max()
    for run in (
        bench.float_nets.numpy_net(graph),
        lambda x: bench.peers.open_torch(network.onnx["fp32"], x)(x),
    ):
        np.testing.assert_allclose(run(x), expected, atol=1e-4 * scale)


def test_the_float_twin_is_the_exact_net_without_its_roundings(bench, network):
    x = network.windows[:16]
    twin, exact = (
        bench.peers.open_onnxruntime(network.onnx[kind], x)(x) for kind in ("fp32", "exact")
    )
    noise = np.mean((twin - exact) ** 2) / np.mean(twin**2)
    assert -10 * np.log10(noise) > 25


def test_every_peer_is_timed_or_left_out_with_a_reason(bench, network, monkeypatch):
    gone = bench.peers.Peer(
        name="gone",
        module="no_such_runtime",
        package="no-such-runtime",
        open=bench.peers.open_numpy,
        kinds=("fp32",),
    )
    monkeypatch.setattr(bench.peers, "PEERS", (*bench.peers.PEERS, gone))
    monkeypatch.setattr(bench.latency, "BLOCK_SECONDS", {1: 1e-4})
    monkeypatch.setattr(bench.latency, "LEAST_ROUNDS", 1)
    rows = list(bench.latency.net_rows(network, 1, 0.0))
    figures = {}
    for _, _, peer, spelling, metric, value, _, n, note in rows:
        figures.setdefault((peer, spelling), {})[metric] = (value, n, note)
    assert figures["gone", "fp32"]["left_out"][2] == "not installed: pip install no-such-runtime"
    assert figures["onnxruntime", "fp32"]["ratio"][0] == 1
    for (peer, spelling), found in figures.items():
        if "left_out" in found:
            assert found["left_out"][2], (peer, spelling)
            continue
        assert 0 < found["p50"][0] <= found["p99"][0], (peer, spelling)
        assert found["ratio_p25"][0] <= found["ratio"][0] <= found["ratio_p75"][0]
        if spelling.startswith("exact") and peer != bench.peers.BOUND:
            reference = figures["onnxruntime", "exact"]["sqnr"][0]
            assert found["sqnr"][0] == pytest.approx(reference), (peer, spelling)
    for peer in ("onnxruntime", "edgeae, onnxruntime", "numpy", "torch eager"):
        assert "p50" in figures[peer, "fp32"]
    assert {"wrapper_ratio", "wrapper_overhead"} <= set(figures["edgeae, onnxruntime", "exact"])


def test_a_peer_with_other_numbers_is_not_timed(bench):
    inputs = [np.full((1, 4), float(i), np.float32) for i in range(4)]
    expected = {}

    def judged(peer, spelling, run):
        return bench.latency._judged((peer, spelling), run, inputs, lambda y: y, expected)

    assert judged("onnxruntime", "fp32", lambda x: x + 1) == 999
    assert judged("onnxruntime", "exact", lambda x: np.rint(x + 1.1)) == 999
    assert judged("a", "exact", lambda x: x + 1) == 999
    assert judged("b", "exact", lambda x: x + 1 + (x == 2)) == "gives other bits for 4 of 16 values"
    assert "dB from the float net, 90 are expected" in judged("c", "fp32", lambda x: x + 1.01)
    assert judged("d", "int8", lambda x: x + 1.01) > 40
    assert "25 are expected" in judged("e", "int8, somebody's file", lambda x: -x)


def test_ratios_are_medians_of_rounds(bench):
    case, latency = bench.latency.Case, bench.latency
    base = case(name=bench.peers.REFERENCE, run=None, inputs=[], medians=[100, 200, 400])
    ours = case(name=("edgeae, onnxruntime", "fp32"), run=None, inputs=[], medians=[50, 150, 300])
    bare = case(name=(bench.peers.BOUND, "fp32"), run=None, inputs=[], medians=[40, 100, 200])
    ours.taken = [1000, 2000, 3000]
    found = {m: value for m, value, _, _ in latency._figures(ours, [base, ours, bare], 3)}
    assert found["ratio"] == 0.75
    assert found["wrapper_ratio"] == 1.5
    assert found["wrapper_overhead"] == pytest.approx(0.05)
    assert found["p50"] == 2.0


def test_streams_give_every_direction(bench, no_data, monkeypatch):
    monkeypatch.setattr(bench.latency, "FRAMES", 2)
    monkeypatch.setattr(bench.latency, "LEAST_ROUNDS", 1)
    if not (ROOT / "export" / "models" / "ecg").is_dir():
        pytest.skip("no exported model")
    rows = list(bench.latency.stream_rows(0.0))
    promises = {row[3] for row in rows}
    assert promises == {name for name, _ in bench.latency.PROMISES}
    assert {row[4] for row in rows if row[2] == "edgeae, onnxruntime"} == {
        f"{verb}_{metric}" for verb in ("encode", "decode") for metric in ("p50", "p99")
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_memory_of_fresh_processes(bench, tmp_path):
    exact = ROOT / "export" / "models" / "ecg" / "decoder.onnx"
    graph, window = tmp_path / "net.onnx", tmp_path / "window.npy"
    graph.write_bytes(bench.float_nets.float_twin(exact.read_bytes()))
    np.save(window, np.zeros((1, 8, 32), np.float32))
    found = bench.memory.weighed("net", "numpy", graph, window, 1)
    assert set(found) == {"opened", "steady", "peak"}
    assert found["opened"] <= found["peak"] < 100
    assert isinstance(bench.memory.weighed("net", "numpy", tmp_path / "none", window, 1), str)


def test_results_are_filed_beside_the_system(bench, results):
    fields = ("network", "value")
    bench.suite.file_suite("latency", fields, [("a", 1.23456789)], replaced="a")
    for value in (2, 3.0):
        bench.suite.file_suite("latency", fields, [("b", value)], replaced="b")
    with (results / "latency.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [list(fields), ["a", "1.23457"], ["b", "3"]]
    told = json.loads((results / "latency.system.json").read_text())
    assert {"cpu", "commit", "packages", "load_average"} <= set(told)


def test_an_unknown_network_is_refused(bench, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["latency.py", "ad02"])
    with pytest.raises(SystemExit) as ended:
        bench.latency.main()
    assert ended.value.code == 2
    assert "no such network: ad02" in capsys.readouterr().err


def test_the_picture_shows_the_committed_results(bench):
    assert (ROOT / ".assets" / "latency.svg").read_text() == bench.bars.bars()


def test_the_suites_measured_what_was_to_be_reached():
    with (ROOT / "bench" / "results" / "latency.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def figure(network, peer, spelling, metric):
        (found,) = (
            float(row["value"])
            for row in rows
            if (row["network"], row["peer"], row["spelling"], row["metric"], row["batch"])
            == (network, peer, spelling, metric, "1")
        )
        return found

    native = "edgeae, native"
    assert figure("ad01", native, "fp32", "ratio") <= 0.8
    assert figure("ad01", native, "exact", "ratio") <= 0.8
    for spelling in ("fp32", "int8", "exact-int8"):
        own = ("ad01", "edgeae, onnxruntime", spelling)
        assert figure(*own, "wrapper_ratio") <= 1.25
        assert figure(*own, "wrapper_overhead") <= 5
    for promise, encode, decode in (("lossy", 1.0, 1.5), ("max error 5", 2, 3)):
        assert figure("ecg-stream", native, promise, "encode_p50") <= encode
        assert figure("ecg-stream", native, promise, "decode_p50") <= decode
