"""The command ``edgeae report``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeae.cli import app
from edgeae.cli.report import _USES
from edgeae.footprint.model import Use
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.manifest import manifest_digest

MODELS = Path(__file__).parent.parent / "export" / "models"
ECG = str(MODELS / "ecg")


def _run(*arguments: str):
    return CliRunner().invoke(app, ["report", *arguments])


def test_a_report_shows_parts_uses_estimates_layers_and_sources():
    result = _run(ECG, "--device", "stm32l4r5", "--device", "x86-gateway")
    assert result.exit_code == 0
    assert not re.search(r" $", result.stdout, re.MULTILINE)
    for text in (
        "ecg (bundle): windows of 1,024 items, 1,024 samples, 2.844 s",
        "sample prior 0", "encode-lossy", "decode-bound", "latent prior/skip",
        "NUCLEO-L4R5ZI", "MLPerf Tiny", "(estimated)", "RSS",
    ):  # fmt: skip
        assert text in result.stdout


def test_the_readme_shows_what_the_command_prints():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(stm32l4r5: .*?)```", readme, re.DOTALL)
    printed = _run(ECG, "--device", "stm32l4r5").stdout.splitlines()
    assert [line for line in block.splitlines() if line not in printed] == []


def test_json_and_text_say_the_same():
    data = json.loads(_run(ECG, "--device", "stm32l4r5", "--json").stdout)
    lossy = next(u for u in data["uses"] if u["use"] == "encode-lossy")
    parts = {p["part"]: p for p in data["parts"]}
    assert lossy["macs"] == sum(parts[name]["macs"] for name in lossy["parts"])
    assert parts["analysis net"]["graph"]["arena_bytes"] == 49152
    (device,) = data["devices"]
    found = next(u for u in device["uses"] if u["use"] == "encode-lossy")
    assert found["flash_bytes"] == lossy["weight_bytes"] + lossy["table_bytes"] + 13942
    assert found["ram_bytes"] == lossy["ram_bytes"]
    assert found["ms"]["low"] <= found["ms"]["typical"] <= found["ms"]["high"]
    assert data["budget"] == {"use": "encode-lossy", "limits": {}, "breaches": []}
    assert f"{lossy['macs']:,}" in _run(ECG, "--device", "stm32l4r5").stdout


def test_without_a_device_all_of_them_are_shown():
    listed = json.loads(_run("--list", "--json").stdout)
    text = _run(str(MODELS / "mnist-dense")).stdout
    assert "windows of 1 items, 784 samples" in text
    for device in listed:
        assert f"\n{device['name']}: " in text
        assert device["name"] in _run("--list").stdout


def test_a_denoiser_is_reported_by_its_hop_or_its_image():
    result = _run(str(MODELS / "denoise-ecg"), "--device", "stm32h7a3", "--max-ram", "96K")
    assert result.exit_code == 0
    for text in (
        "denoise-ecg (bundle): windows of 4 items, 4 samples, 0.01111 s",
        "within budget: denoise on stm32h7a3",
    ):
        assert text in result.output
    assert (
        _run(str(MODELS / "denoise-ecg"), "--device", "rp2040", "--max-ram", "32K").exit_code == 3
    )
    image = _run(str(MODELS / "denoise-image"), "--shape", "64,48", "--json")
    assert json.loads(image.stdout)["model"]["window_samples"] == 64 * 48


def test_budgets_gate_with_exit_code_3():
    kept = _run(ECG, "--device", "stm32l4r5", "--max-flash", "256K", "--max-ram", "64K")
    assert kept.exit_code == 0
    assert "within budget: encode-lossy on stm32l4r5" in kept.stderr
    options = ["--max-flash", "64K", "--max-ram", "64K", "--max-ms", "5ms", "--max-uj", "1e6"]
    broken = _run(ECG, "--device", "stm32l4r5", "--device", "rp2040", *options, "--json")
    assert broken.exit_code == 3
    lines = [line for line in broken.stderr.splitlines() if line.startswith("BREACH: ")]
    assert [re.split(r"[ \d]", line, maxsplit=2)[1][:5] for line in lines] == [
        "stm",
        "stm",
        "rp",
        "rp",
    ]
    assert "4 of 8 budgets broken" in broken.stderr
    assert len(json.loads(broken.stdout)["budget"]["breaches"]) == 4
    other = _run(ECG, "--device", "stm32l4r5", "--use", "encode-bound", "--max-ram", "32K")
    assert other.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ECG, "--device", "stm32l4r6"], "did you mean stm32l4r5"),
        ([ECG, "--device", "stm32l4r5", "--max-ram", "a bit"], "bytes such as 65536, 64K or 1.5M"),
        ([ECG, "--device", "stm32l4r5", "--max-ms", "soon"], "a number of ms such as 5 or 2.5"),
        ([ECG, "--max-ram", "64K"], "a budget needs --device"),
        ([ECG, "--use", "sleep"], "expected one of encode-lossy"),
        ([ECG, "--use", "run"], "choose encode-lossy"),
        ([ECG, "--window", "0"], "window is 0"),
        ([ECG, "--shape", "1,2"], "--shape goes with an .onnx file"),
        ([str(MODELS / "denoise-ecg"), "--shape", "1,2"], "other bundles take --window"),
        (["digits", "--shape", "1,2"], "not a recipe"),
        ([str(MODELS / "denoise-ecg"), "--use", "run"], "choose denoise"),
        ([ECG, "--set", "seed=2"], "--data and --set go with a recipe"),
        ([f"{ECG}/encoder.onnx"], "axis T is free, so give the input's shape, such as 1,1,1024"),
        ([f"{ECG}/encoder.onnx", "--shape", "a,b"], "expected numbers such as 1,640"),
        (["nowhere.bundle"], "no such bundle, .onnx file or recipe"),
        (["digit"], "Did you mean 'digits'?"),
        ([], "report takes a bundle"),
    ],
)
def test_what_cannot_be_reported_is_a_usage_error(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_bundle_of_a_newer_version_is_a_usage_error(tmp_path):
    copy = tmp_path / "new"
    shutil.copytree(ECG, copy)
    raw = json.loads((copy / "manifest.json").read_text())
    raw["version"] = 99
    raw["sha256"] = manifest_digest(raw)
    (copy / "manifest.json").write_text(json.dumps(raw))
    result = _run(str(copy), "--device", "stm32l4r5")
    assert result.exit_code == 2
    assert "upgrade edgeae" in result.stderr


def test_a_device_needs_neither_torch_nor_onnxruntime_to_report():
    program = (
        "import sys; from edgeae.cli import app\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime'}\n"
        "assert not heavy & set(sys.modules)\n"
        f"app(['report', {ECG!r}, '--device', 'rpi-4', '--json'], standalone_mode=False)\n"
        "assert not (heavy - {'numpy'}) & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["devices"][0]["rss_bytes"]["native"] > 2**25


def test_the_help_names_every_use():
    for use in Use:
        assert use.value in _USES


def test_export_holds_the_budgets_of_the_device():
    from edgeae.errors import ModelError
    from edgeae.exporting.bundle import check_device
    from edgeae.train.recipe import parse_recipe

    bundle = Bundle.load(ECG)
    text = 'name = "x"\n[budgets]\ndevice = "stm32l4r5"\nmax_ram = '
    check_device(parse_recipe('name = "x"'), bundle)
    check_device(parse_recipe(text + '"64K"'), bundle)
    with pytest.raises(ModelError, match="over budget on stm32l4r5: ram 34,040 bytes > 8,192"):
        check_device(parse_recipe(text + '"8K"'), bundle)


def test_an_onnx_file_is_reported(tmp_path):
    result = _run(f"{ECG}/encoder.onnx", "--shape", "1,1,1024", "--device", "stm32h7a3", "--json")
    data = json.loads(result.stdout)
    assert data["model"]["kind"] == "onnx"
    assert [use["use"] for use in data["uses"]] == ["run"]
    assert data["uses"][0]["macs"] == 1_093_632
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(Path(ECG, "encoder.onnx").read_bytes()[:5000])
    broken = _run(str(damaged))
    assert broken.exit_code == 1
    assert "not an ONNX file, or damaged" in broken.stderr


def test_a_recipe_is_reported_before_training_and_its_budgets_hold(tmp_path):
    data = tmp_path / "signal.npy"
    np.save(data, np.random.default_rng(0).integers(-3, 4, 4000).cumsum().astype(np.int16))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'name = "mine"\n[data]\nsource = "{data}"\n'
        '[budgets]\ndevice = "stm32u575"\nmax_ram = "64K"\nmax_ms = 1\n'
        "[[sample_prior]]\nsteps = [1]\nwidth = 8\n"
    )
    result = _run(str(recipe))
    assert result.exit_code == 3
    assert "BREACH: stm32u575: " in result.stderr
    assert "ms per window > 1" in result.stderr
    assert "1 of 2 budgets broken" in result.stderr
    smaller = _run(str(recipe), "--set", "budgets.max_ms=1000", "--max-ram", "1K")
    assert "ram" in smaller.stderr
    assert smaller.exit_code == 3
    fine = _run(str(recipe), "--max-ms", "1000")
    assert fine.exit_code == 0
    elsewhere = _run(str(recipe), "--device", "rp2040")
    assert elsewhere.exit_code == 0


def test_a_bundle_keeps_the_budgets_of_its_recipe(tmp_path):
    copy = tmp_path / "ecg"
    shutil.copytree(ECG, copy)
    raw = json.loads((copy / "manifest.json").read_text())
    raw["recipe"]["budgets"] = {"device": "rp2040", "max_ram": "8K"}
    raw["sha256"] = manifest_digest(raw)
    (copy / "manifest.json").write_text(json.dumps(raw))
    Bundle.load(copy)
    result = _run(str(copy))
    assert result.exit_code == 3
    assert "BREACH: rp2040: ram" in result.stderr
    assert _run(str(copy), "--max-ram", "64K").exit_code == 0
