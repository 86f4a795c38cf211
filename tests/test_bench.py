"""``edgeae bench`` on the command line: what it prints, writes, compares and refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgeae
from edgeae.cli import app
from edgeae.profiling import bundle_profile, confirm, graph_profile
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.profile import Profile

MODELS = Path(__file__).resolve().parent.parent / "export" / "models"
QUICK = ("--duration", 0.2, "--growth", 400, "--batch", 2)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module", autouse=True)
def few_processes():
    """Fewer fresh processes, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_COLD_STARTS", "_MEMORY_RUNS"):
            patch.setattr(bundle_profile, name, 1)
            patch.setattr(graph_profile, name, 1)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bench of the ECG bundle: its JSON, its page, and what was printed."""
    folder = tmp_path_factory.mktemp("bench")
    result = call(
        *(MODELS / "ecg-own", *QUICK, "--frame", 256),
        *("--json", folder / "base.json", "--report", folder / "page.html"),
    )
    return folder, result


@pytest.fixture(scope="module")
def data(made):
    return json.loads((made[0] / "base.json").read_text())


def test_every_promise_is_measured_both_ways(data):
    rows = [(row["promise"], row["direction"]) for row in data["latency"]]
    promises = ("lossy", "max error 5", "lossless")
    assert rows == [(p, d) for p in promises for d in ("encode", "decode")]
    for row in data["latency"]:
        whole = row["whole"]
        assert 0 < whole["min_us"] <= whole["p50_us"] <= whole["p99_us"] <= whole["max_us"]
        assert row["real_time_factor"] == pytest.approx(row["items_per_s"] / 360, rel=0.01)
        assert sum(row["histogram"]["counts"]) == whole["n"]


def test_the_machine_and_the_model_are_named(data):
    about, subject = data["machine"], data["subject"]
    assert about["cpu"]
    assert about["versions"]["numpy"] == np.__version__
    bundle = edgeae.load(MODELS / "ecg-own")
    assert subject["fingerprint"] == bundle.fingerprint.hex()
    assert subject["engine"] in ("native", "onnxruntime", "native and onnxruntime")
    assert data["options"]["frame_items"] == 256


def test_sizes_and_costs(data):
    files = {p.name: p.stat().st_size for p in (MODELS / "ecg-own").iterdir() if p.is_file()}
    assert data["artefacts"]["files_bytes"] == files
    encoder, decoder = data["nets"]
    assert encoder["input_shape"] == [1, 1, 256]
    assert decoder["macs"] > encoder["macs"] > 10_000
    n_priors = len(edgeae.load(MODELS / "ecg-own").sample_priors)
    assert n_priors > 1
    names = {"latent prior", *(f"sample prior {i}" for i in range(n_priors))}
    assert {row["prior"] for row in data["priors"]} == names


def test_memory_is_split(data):
    memory, growth = data["memory"], data["growth"]
    if memory["interpreter_kib"] is None:
        pytest.skip("this platform does not tell")
    names = ("interpreter", "numpy", "import", "load", "encode_steady", "encode_peak")
    steps = [memory[f"{name}_kib"] for name in names]
    assert all(a <= b + 1024 for a, b in itertools.pairwise(steps))
    assert not memory["torch_or_onnx_loaded"]
    assert growth["n_frames"] == 400
    assert growth["points"][-1][0] == 400


def test_starts_have_parts(data):
    cold = {row["role"]: row for row in data["start"]["cold"]}
    assert set(cold) == {"encode", "decode"}
    parts = ("python_ms", "import_ms", "load_ms", "first_frame_ms")
    assert all(cold["encode"][part] > 0 for part in parts)
    assert 0 < data["start"]["warm"]["load_ms"] <= data["start"]["warm"]["p50_ms"]


def test_files_and_batches_are_measured(data):
    assert len(data["file"]) == len(data["batch"]) == 6
    assert all(row["samples_per_s"] > 0 for row in (*data["file"], *data["batch"]))


def test_the_table_names_what_was_measured(made):
    for words in ("lossless, decode", "framing", "cold start", "resident memory", "MAC"):
        assert words in made[1].stdout


def test_the_page_needs_nothing_else(made):
    text = (made[0] / "page.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 6 + 1 + 1
    for outside in ("http", "src=", "@import", "url("):
        assert outside not in text


def test_an_equal_result_passes(made, data, monkeypatch):
    monkeypatch.setattr(confirm, "profile", lambda *_, **__: Profile(data=data))
    result = call(MODELS / "ecg-own", "--compare", made[0] / "base.json", "--batch", 2)
    assert "nothing is more than 15 % worse" in result.stderr


def slowed(data, factor):
    """The same result, lossy encoding slower."""
    new = json.loads(json.dumps(data))
    row = new["latency"][0]
    row["floor_us"] *= factor
    for block in row["blocks"]:
        block["p50_us"] *= factor
    return new


@pytest.mark.parametrize(("again", "code"), [(1.3, 3), (1.0, 0)])
def test_a_slower_result_ends_with_3_if_it_stays_slower(made, data, monkeypatch, again, code):
    monkeypatch.setattr(confirm, "profile", lambda *_, **__: Profile(data=slowed(data, 1.3)))
    monkeypatch.setattr(
        confirm, "bundle_again", lambda *_: {"latency": slowed(data, again)["latency"]}
    )
    result = call(MODELS / "ecg-own", "--compare", made[0] / "base.json", "--batch", 2, code=code)
    assert ("worse: lossy, encode" in result.stderr) == (code == 3)


def test_parts_can_be_measured_again():
    options = BenchOptions(duration_s=0.1, frame_items=64)
    found = bundle_profile.bundle_again(str(MODELS / "ecg-own"), options, {"latency", "start"})
    assert len(found["latency"]) == 6
    assert [row["role"] for row in found["start"]["cold"]] == ["encode", "decode"]
    path = str(MODELS / "ecg-own" / "decoder.onnx")
    found = graph_profile.graph_again(path, BenchOptions(duration_s=0.1), {"latency", "start"})
    assert {row["direction"] for row in found["latency"]} >= {"session.run", "IOBinding"}
    assert found["start"]["cold"][0]["n"] == 2


def test_json_alone_goes_to_stdout(data, monkeypatch):
    monkeypatch.setattr(confirm, "profile", lambda *_, **__: Profile(data=data))
    result = call(MODELS / "ecg-own", "--json", "-")
    assert json.loads(result.stdout) == data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-regress", "x%"), "no percentage"),
        (("--threads", 0), "threads"),
        (("--duration", -1), "duration"),
        (("--engine", "tflite"), "engine 'tflite'"),
        (("--shape", "x=0"), "no shape"),
        (("--compare", "none.json"), "none.json"),
    ],
)
def test_bad_options_end_with_2(options, words):
    assert words in call(MODELS / "ecg-own", *options, code=2).stderr


def test_a_base_with_other_options_ends_with_2_at_once(made):
    arguments = ("--compare", made[0] / "base.json", "--threads", 2)
    assert "threads: 1 and 2" in call(MODELS / "ecg-own", *arguments, code=2).stderr


def test_a_newer_bundle_ends_with_2(tmp_path):
    manifest = json.loads((MODELS / "ecg-own" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    assert "version 99" in call(tmp_path, code=2).stderr


@pytest.mark.parametrize("name", ["nowhere", "nowhere.onnx"])
def test_a_missing_model_is_named(name):
    assert name in call(name, code=1).stderr


def test_a_broken_graph_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    assert "bad.onnx" in call(tmp_path / "bad.onnx", code=1).stderr


def test_any_graph_can_be_measured(tmp_path):
    out = tmp_path / "graph.json"
    graph = MODELS / "ecg-own" / "encoder.onnx"
    call(graph, *QUICK, "--shape", "signal=1,1,64", "--json", out)
    found = json.loads(out.read_text())
    assert found["subject"]["kind"] == "onnx"
    assert found["input"]["shapes"] == {"signal": [1, 1, 64]}
    directions = {row["direction"] for row in found["latency"]}
    assert {"session.run", "IOBinding"} <= directions
    assert found["nets"][0]["macs"] > 0
    assert {row["frames_per_call"] for row in found["batch"]} == {2}
    assert found["memory"]["run_steady_kib"] is None or found["memory"]["run_steady_kib"] > 1000


def test_graphs_of_several_inputs(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "abc"
    ]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Mul", ["a", "b"], ["d"])]
    outputs = [values[2], helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "two", values[:2], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    out = tmp_path / "two.json"
    call(path, *QUICK, "--json", out)
    assert json.loads(out.read_text())["input"]["shapes"] == {"a": [1, 3], "b": [1, 3]}
    assert "no input 'z'" in call(path, "--shape", "z=1,3", code=2).stderr
