"""Footprints of whole models, estimates on devices, and budgets."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import series_bundle

from edgeae.errors import ConfigError
from edgeae.footprint.budget import Budget, parse_bytes, parse_number
from edgeae.footprint.devices import Range, device_names, load_device, parse_device
from edgeae.footprint.estimate import estimate, rss_bytes
from edgeae.footprint.model import Use, bundle_footprint, onnx_footprint
from edgeae.footprint.parts import prior_part
from edgeae.runtime.bundle import Bundle

MODELS = Path(__file__).parent.parent / "export" / "models"
PROFILES = Path(__file__).parent.parent / "export" / "devices"


@pytest.fixture(scope="module")
def ecg() -> Bundle:
    return Bundle.load(MODELS / "ecg")


# -- models ----------------------------------------------------------------------------------------


def adapts(name: str) -> bool:
    return name == "filter" or name.startswith("mixture.")


def test_what_a_frame_teaches_is_counted_too(ecg):
    model = bundle_footprint(ecg)
    prior = ecg.sample_priors[0]
    assert prior.adaptive.learnt is not None
    part = next(p for p in model.parts if p.name == "sample prior 0")
    found = {layer.name: layer for layer in part.layers}
    n = 2 * prior.adaptive.taps
    assert found["filter"].macs == 1024 * (2 * n * n + 3 * n)
    net = prior.adaptive.learnt.net
    weights = sum(x.weight.size for x in (*net.layers, net.head)) + net.skip_weight.size
    macs = sum(layer.macs for name, layer in found.items() if name.startswith("mixture."))
    assert macs == 1024 * weights


def test_priors_cost_what_the_manifest_says(ecg):
    model = bundle_footprint(ecg)
    cost = ecg.manifest.raw["cost"]
    found = {part.name: part for part in model.parts}
    for part, key in (("analysis net", "encoder"), ("synthesis net", "decoder")):
        macs = sum(layer.macs for layer in found[part].layers)
        assert round(macs / model.window_samples, 1) == cost[f"{key}_macs_per_sample"]
    for part, key in (("latent prior", "prior"), ("sample prior 0", "sample_prior_0")):
        layers = [layer for layer in found[part].layers if not adapts(layer.name)]
        biases = {layer.name: layer.output_shape[1] for layer in layers if layer.name != "skip"}
        every = sum(
            layer.output_shape[0] * (layer.n_parameters - biases.get(layer.name, 0))
            for layer in layers
        )
        assert round(every / model.window_samples, 1) == cost[f"{key}_macs_per_sample"]
        assert sum(layer.macs for layer in layers) < every  # the constant feature costs nothing
    assert found["sample prior 0"].symbols == 1024
    assert found["latent prior"].symbols == 32 * 8


def test_a_prior_is_counted_to_the_byte(ecg):
    """Integers of the coder's arrays: weights as stored, bias 4 bytes, shift 1, offset 2."""
    plain = replace(ecg.sample_priors[0], adaptive=None)
    net = plain.net
    part = prior_part("sample prior 0", plain.rules, 1024)
    expected = 0
    for layer in (*net.layers, net.head):
        expected += layer.weight.nbytes + 5 * layer.n_out + 2 * len(layer.offsets)
    skip = net.skip_weight
    expected += skip.nbytes + skip.shape[0] + 2 * len(net.skip_offsets)
    assert part.weight_bytes == expected
    rows = [max(net.layers[0].offsets[-1], net.skip_offsets[-1])]
    rows += [layer.offsets[-1] for layer in (*net.layers[1:], net.head)]
    (moving,) = np.flatnonzero(net.past)  # the other feature, the quantizer's step, is constant
    widths = [1, *(layer.n_out for layer in net.layers)]
    ring = sum(2 * (r + 1) * w for r, w in zip(rows, widths, strict=True))
    sums = 4 * (net.layers[0].n_out + net.n_outputs)
    assert part.state_bytes == ring + sums + 2272 + 40 + 4
    first = net.layers[0].weight[:, net.layers[0].offsets.index(1) :, moving]
    assert net.skip_offsets[0] == 1
    work = first.size + skip[:, :, moving].size
    work += sum(x.weight.size for x in (*net.layers[1:], net.head))
    assert part.macs == 1024 * work


def test_uses_add_up_their_parts(tmp_path):
    model = bundle_footprint(series_bundle(tmp_path / "tiny"), window=64)
    uses = {use.use: [part.name for part in use.parts] for use in model.uses}
    code = ["analysis net", "latent prior", "synthesis net"]
    assert uses[Use.ENCODE_LOSSY] == code
    assert uses[Use.DECODE_LOSSY] == ["latent prior", "synthesis net"]
    assert uses[Use.ENCODE_BOUND] == [*code, "sample prior 0", "sample prior 1"]
    assert uses[Use.DECODE_BOUND] == ["latent prior", "synthesis net", "sample prior 1"]
    for use in model.uses:
        assert use.macs == sum(part.macs for part in use.parts)
        assert use.arena_bytes == max(part.arena_bytes for part in use.parts)
        assert use.ram_bytes == use.arena_bytes + use.state_bytes + use.buffer_bytes
    frame = 64 * 2
    assert model.use(Use.DECODE_BOUND).buffer_bytes == 2 * frame + 64 + 2 * 2 * 16
    with pytest.raises(ConfigError, match="has no use 'run': choose encode-lossy"):
        model.use(Use.RUN)


def test_operations_grow_with_the_window_and_weights_do_not(ecg):
    small, large = bundle_footprint(ecg, window=512), bundle_footprint(ecg, window=4096)
    for a, b in zip(small.parts, large.parts, strict=True):
        assert b.macs == 8 * a.macs
        assert b.weight_bytes == a.weight_bytes
        assert b.state_bytes == a.state_bytes
    assert bundle_footprint(ecg, window=1).window_items == ecg.net.stride
    with pytest.raises(ConfigError, match="expected at least 1"):
        bundle_footprint(ecg, window=-1)


def test_images_are_counted_one_by_one():
    one = bundle_footprint(Bundle.load(MODELS / "mnist"))
    many = bundle_footprint(Bundle.load(MODELS / "mnist"), window=8)
    assert (one.window_items, one.window_samples, one.window_s) == (1, 784, None)
    assert many.use().macs == 8 * one.use().macs


# -- denoisers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["denoise-ecg", "denoise-vibration"])
def test_a_stream_is_counted_to_the_byte(name):
    """Weights as integers, the past of each layer once, and little else."""
    bundle = Bundle.load(MODELS / name)
    cost, spec, channels = bundle.manifest.raw["cost"], bundle.denoise, bundle.signal.channels
    one, many = bundle_footprint(bundle), bundle_footprint(bundle, window=63)
    (net,) = one.parts
    assert (one.window_items, many.window_items) == (spec.hop, 64)
    assert round(one.use(Use.DENOISE).macs / spec.hop, 1) == cost["macs_per_sample"]
    assert many.use().macs == 64 // spec.hop * one.use().macs
    assert net.n_parameters == cost["parameters"] + 3 * channels  # center, unit, and unit back
    kept = sum(2 * c * n for c, n in (state.shape for state in spec.state))
    steps = 2 * (channels * spec.hop + sum(state.shape[0] for state in spec.state[1:]))
    assert net.state_bytes == kept + steps
    assert net.arena_bytes < 1000
    assert {layer.arithmetic for layer in net.layers if layer.macs} == {"int16"}
    assert one.window_s == spec.hop / bundle.signal.rate_hz


def test_speech_brings_its_transform_and_images_their_size():
    speech = bundle_footprint(Bundle.load(MODELS / "denoise-speech"))
    transform, net = speech.parts
    assert (transform.name, speech.window_items) == ("transform", 256)
    assert transform.host is None
    assert net.layers[0].activation_bytes == 2 * 129
    image = Bundle.load(MODELS / "denoise-image")
    large, small = bundle_footprint(image), bundle_footprint(image, size=(31, 64))
    assert (large.window_samples, small.window_samples) == (256 * 256, 32 * 64)
    assert large.use().macs == 32 * small.use().macs
    assert large.window_samples * image.manifest.raw["cost"]["macs_per_pixel"] == large.use().macs


def test_python_takes_its_time_around_a_block():
    model = bundle_footprint(Bundle.load(MODELS / "denoise-ecg"))
    found = estimate(model, model.use(), load_device("x86-gateway"))
    assert "Python per block, us" in found.sources
    assert "Python per frame, us" not in found.sources
    assert found.time_ms.typical > 0.029
    chip = estimate(model, model.use(), load_device("stm32l4r5"))
    assert chip.fits
    assert chip.ram_bytes == model.use().ram_bytes


def test_what_a_denoiser_has_not_cannot_be_chosen(ecg):
    denoiser = Bundle.load(MODELS / "denoise-ecg")
    with pytest.raises(ConfigError, match="have no height and width"):
        bundle_footprint(denoiser, size=(8, 8))
    with pytest.raises(ConfigError, match="is a codec"):
        bundle_footprint(ecg, size=(8, 8))
    with pytest.raises(ConfigError, match="expected at least 1"):
        bundle_footprint(denoiser, window=0)


# -- recipes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "denoise-speech"])
def test_a_recipe_costs_what_its_trained_bundle_costs(name):
    from edgeae.exporting.untrained import recipe_footprint
    from edgeae.train.recipe import load_recipe

    before = recipe_footprint(load_recipe(name))
    after = bundle_footprint(Bundle.load(MODELS / name))
    assert before.parts == after.parts
    assert [(u.use, u.ram_bytes, u.macs) for u in before.uses] == [
        (u.use, u.ram_bytes, u.macs) for u in after.uses
    ]


def test_a_recipe_needs_data_and_a_family_that_is_built_before_training():
    from edgeae.exporting.untrained import recipe_footprint
    from edgeae.train.recipe import load_recipe, parse_recipe

    with pytest.raises(ConfigError, match="names no data; give --data"):
        recipe_footprint(parse_recipe('name = "bare"'))
    with pytest.raises(ConfigError, match="train and export it"):
        recipe_footprint(load_recipe("mnist-dense"))


def test_budgets_in_a_recipe_are_checked_when_it_is_read():
    from edgeae.train.recipe import parse_recipe

    text = 'name = "x"\n[budgets]\n'
    fine = parse_recipe(text + 'device = "stm32l4r5"\nmax_ram = "64K"\nmax_ms = 5\n').budgets
    assert fine.device_budget() == Budget(ram_bytes=65536, time_ms=5.0)
    with pytest.raises(ConfigError, match="needs budgets"):
        parse_recipe(text + 'max_ram = "64K"\n')
    with pytest.raises(ConfigError, match="did you mean stm32l4r5"):
        parse_recipe(text + 'device = "stm32l4r4"\n')
    with pytest.raises(ConfigError, match="max-ram is 'much'"):
        parse_recipe(text + 'device = "stm32l4r5"\nmax_ram = "much"\n')


# -- devices ---------------------------------------------------------------------------------------


def test_every_profile_is_complete_and_says_where_its_figures_come_from():
    names = device_names()
    assert {p.stem for p in PROFILES.glob("*.toml")} == set(names)
    cores = {load_device(name).core for name in names}
    assert {"Cortex-M0+", "Cortex-M4", "Cortex-M7", "Cortex-M33", "Cortex-M55"} <= cores
    for name in names:
        device = load_device(name)
        anchors = [*device.cycles_per_mac.values(), device.symbol_cycles, device.run_us]
        linux = (device.native, device.frame_us, device.block_us, device.classical_cycles)
        anchors += [anchor for anchor in linux if anchor is not None]
        assert len(anchors) == (5 if device.is_mcu else 9)
        for anchor in (*anchors, device.active_mw):
            assert len(anchor.source) > 20
            if anchor.basis == "measured":
                assert any(char.isdigit() for char in anchor.source)
        assert device.is_mcu == (device.host is None) == bool(device.code_bytes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_hz = 120000000", "clock_hz = -1", "clock_hz is -1, expected a number >= 0"),
        ('kind = "mcu"', 'kind = "fpga"', "kind is 'fpga', expected 'mcu' or 'linux'"),
        ("low = 1.84", "low = 9.0", "low <= typical <= high"),
        ('basis = "measured"', 'basis = "guessed"', "expected 'measured' or 'estimated'"),
        ("[cycles_per_mac.int8]", "[cycles_per_mac.int4]", "int4"),
        ("[active_mw]", "[power]", "active_mw is None, expected a table"),
        ("board = ", "board : ", "not TOML"),
        ("flash_bytes = 2097152", 'flash_bytes = "2M"', "flash_bytes is '2M', expected a number"),
    ],
)
def test_a_profile_with_an_error_says_which_field(old, new, message):
    text = (PROFILES / "stm32l4r5.toml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(ConfigError, match=message):
        parse_device(text.replace(old, new), name="mine")


def test_an_unknown_device_lists_the_near_ones():
    with pytest.raises(ConfigError, match="no device 'stm32l5r5'; did you mean stm32l4r5"):
        load_device("stm32l5r5")
    with pytest.raises(ConfigError, match="did you mean rpi-"):
        load_device("rpi")
    with pytest.raises(ConfigError, match="known: alif-e8"):
        load_device("toaster")


def _int8_autoencoder() -> bytes:
    """MLPerf Tiny's anomaly detector in QDQ, with weights of chance."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    rng = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(value, name))
        return name

    constant("s", np.float32(0.0625))
    constant("z", np.int8(0))
    x = "x"
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        w = rng.integers(-127, 128, (n_out, n_in)).astype(np.int8)
        scale = rng.uniform(0.001, 0.002, n_out).astype(np.float32)
        bias = np.zeros(n_out, np.float32)
        nodes += [
            helper.make_node("QuantizeLinear", [x, "s", "z"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
            helper.make_node(
                "DequantizeLinear",
                [constant(f"w{i}", w), constant(f"ws{i}", scale)], [f"wd{i}"], axis=0,
            ),
            helper.make_node(
                "Gemm", [f"d{i}", f"wd{i}", constant(f"b{i}", bias)], [f"g{i}"], transB=1
            ),
        ]  # fmt: skip
        x = f"g{i}"
    nodes.append(helper.make_node("QuantizeLinear", [x, "s", "z"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    graph = helper.make_graph(
        nodes, "ad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 640])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 640])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("name", "published_ms", "published_uj"),
    [  # MLPerf Tiny, anomaly detection, fastest and slowest of the results named in the profiles
        ("stm32l4r5", (4.05, 10.05), (203.4, 443.2)),
        ("stm32h7a3", (1.225, 2.281), (165.7, 349.0)),
        ("stm32u575", (3.21, 4.85), (81.9, 81.9)),
    ],
)
def test_estimates_meet_what_was_published_of_mlperf_tiny(name, published_ms, published_uj):
    model = onnx_footprint(_int8_autoencoder())
    assert model.use().macs == 264_192
    assert {layer.arithmetic for layer in model.parts[0].layers if layer.macs} == {"int8"}
    found = estimate(model, model.use(), load_device(name))
    assert found.time_ms.low == pytest.approx(published_ms[0], rel=0.02)
    assert found.time_ms.high >= published_ms[1] * 0.98
    assert found.time_ms.low <= found.time_ms.typical <= found.time_ms.high
    assert found.energy_uj.low <= published_uj[0]
    assert found.energy_uj.high >= published_uj[1]
    assert found.flash_bytes >= 265_000


def test_estimates_are_the_sum_of_their_parts(ecg):
    model, device = bundle_footprint(ecg), load_device("stm32l4r5")
    use = model.use(Use.ENCODE_BOUND)
    found = estimate(model, use, device)
    assert len(use.parts) == len(ecg.sample_priors)
    per_mac = {name: anchor.value.typical for name, anchor in device.cycles_per_mac.items()}
    assert per_mac["int16"] == 2.92
    layers = [layer for part in use.parts for layer in part.layers]
    assert {x.arithmetic for x in layers if x.name == "filter"} == {"float32"}
    cycles = sum(part.symbols * 350 for part in use.parts)
    cycles += sum(x.macs * per_mac[x.arithmetic] for x in layers)
    assert found.time_ms.typical == pytest.approx(cycles / 120e3)
    assert found.energy_uj.typical == pytest.approx(found.time_ms.typical * 41.4)
    assert found.flash_bytes == use.weight_bytes + use.table_bytes + device.code_bytes
    assert found.ram_bytes == use.ram_bytes
    assert set(found.sources) == {
        "active power, mW", "cycles per symbol",
        *(f"cycles per MAC, {name}" for name in ("int8", "int16", "float32")),
    }  # fmt: skip


def test_on_linux_the_engine_decides(ecg):
    model, device = bundle_footprint(ecg), load_device("x86-gateway")
    use = model.use()
    found = {e: estimate(model, use, device, engine=e) for e in ("auto", "native", "onnxruntime")}
    assert [found[e].engine for e in found] == ["native", "native", "onnxruntime"]
    assert found["auto"].time_ms == found["native"].time_ms
    assert "cycles per MAC, native nets" in found["native"].sources
    assert "cycles per MAC, float32" in found["onnxruntime"].sources
    assert found["native"].ram_bytes < found["onnxruntime"].ram_bytes
    bound = estimate(model, model.use(Use.ENCODE_BOUND), device)
    assert bound.time_ms.typical > 1024 * 6900 / 3.7e6
    assert "classical mode, cycles per sample" in bound.sources
    plain = onnx_footprint(ecg.files["encoder.onnx"], (1, 1, 1024))
    assert estimate(plain, plain.use(), device).engine == "onnxruntime"
    assert estimate(model, use, load_device("rp2040"), engine="native").engine == "c"
    with pytest.raises(ConfigError, match="engine 'tflite': expected one of auto"):
        estimate(model, use, device, engine="tflite")


def test_a_range_keeps_its_order():
    a = Range(low=1, typical=2, high=3)
    assert a * 2 + a == Range(low=3, typical=6, high=9)
    assert a.times(a) == Range(low=1, typical=4, high=9)
    with pytest.raises(ConfigError, match="finite"):
        Range(low=0, typical=1, high=float("inf"))


# -- a Python program's memory ---------------------------------------------------------------------

_PROGRAM = """
import json, sys
import numpy as np
import edgeae
path, engine = sys.argv[1:]
bundle = edgeae.load(path, engine=engine)
spec = bundle.signal
shape = (1, spec.height, spec.width) if spec.is_image else (1024,)
x = np.random.default_rng(0).integers(0, 9, (*shape, spec.channels)).cumsum(0)
x = x.astype(spec.dtype)
for options in ({}, {"lossless": True}):
    edgeae.decode(bundle, edgeae.encode(bundle, x, **options))
with open("/proc/self/status") as status:
    kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
print(json.dumps({"rss": kib * 1024, "onnxruntime": "onnxruntime" in sys.modules}))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the profile is that of x86-64 Linux",
)
@pytest.mark.parametrize("name", ["ecg", "mnist", "power"])
@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_resident_memory_is_estimated_within_a_fifth(name, engine):
    path = MODELS / name
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), engine],
        capture_output=True,
        text=True,
        check=True,
    )
    truth = json.loads(run.stdout)
    used = "onnxruntime" if truth["onnxruntime"] else "native"
    device = load_device("x86-gateway")
    found = rss_bytes(bundle_footprint(Bundle.load(path)), device, engine=used)
    assert found == pytest.approx(truth["rss"], rel=0.2)


# -- budgets ---------------------------------------------------------------------------------------


def test_bytes_are_read_in_the_usual_forms():
    for text, n_bytes in [
        ("1", 1), ("64K", 65536), ("64k", 65536), ("64 KiB", 65536), ("64KB", 65536),
        ("1.5M", 1572864), ("2G", 2**31), (" 12 b ", 12),
    ]:  # fmt: skip
        assert parse_bytes(text, "x") == n_bytes
    for text in ("", "K", "-5", "5T", "0", "64 K ram", "nan"):
        with pytest.raises(ConfigError, match="expected bytes such as 65536, 64K"):
            parse_bytes(text, "max-ram")


def test_numbers_are_read_with_or_without_their_unit():
    assert [parse_number(t, "x", "ms") for t in ("5", "2.5 ms", "1e2MS")] == [5.0, 2.5, 100.0]
    for text in ("", "fast", "-1", "0", "inf", "nan", "5 us"):
        with pytest.raises(ConfigError, match="expected a number of ms"):
            parse_number(text, "max-ms", "ms")


def test_a_budget_names_what_is_broken(ecg):
    model = bundle_footprint(ecg)
    found = estimate(model, model.use(), load_device("stm32l4r5"))
    tight = Budget.parse(flash="1K", ram="1K", ms="1", uj="1")
    assert [b.name for b in tight.breaches(found)] == ["flash", "ram", "ms", "uj"]
    assert str(tight.breaches(found)[1]) == f"stm32l4r5: ram {found.ram_bytes:,} bytes > 1,024"
    assert Budget.parse(flash="1M", ram="1M", ms="1000", uj="1e6").breaches(found) == []
    mine = Budget(ram_bytes=1).over(Budget(ram_bytes=2, time_ms=3.0))
    assert mine == Budget(ram_bytes=1, time_ms=3.0)
