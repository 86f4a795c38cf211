from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgeae  # noqa: E402
from edgeae.cli import app  # noqa: E402
from edgeae.errors import ConfigError, ModelError, SignalError  # noqa: E402
from edgeae.exporting.module import export_module, export_pair  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.models.dyadic import DyadicConv, calibrating, set_quantized  # noqa: E402
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec  # noqa: E402

WINDOW = 32


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    rng = np.random.default_rng(5)
    t = np.arange(64 * WINDOW)
    return np.rint(300 * np.sin(t / 7) + rng.normal(0, 4, t.size)).astype(np.int16)


def trained(encoder: nn.Module, decoder: nn.Module, x: np.ndarray, steps: int = 60) -> None:
    data = torch.from_numpy(x.astype(np.float32))
    torch.manual_seed(0)
    both = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(both, lr=5e-3)
    for _ in range(steps):
        loss = ((decoder(encoder(data)) - data) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Scaled(nn.Sequential):
    """A user's net that scales its own input."""

    def __init__(self, gain: float, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.gain = gain

    def forward(self, x):
        return super().forward(x * self.gain)


def dense_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    encoder = Scaled(1 / 300, nn.Linear(WINDOW, 24), nn.ReLU(), nn.Linear(24, 6))
    decoder = nn.Sequential(nn.Linear(6, 24), nn.Sigmoid(), nn.Linear(24, WINDOW), Gain(300))
    return encoder, decoder


class Gain(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return x * self.gain


def conv_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(2)
    encoder = Scaled(
        1 / 300, nn.Conv1d(1, 8, 8, 4, 2), nn.ReLU(), nn.Conv1d(8, 4, 4, 2, 1), nn.Tanh()
    )
    decoder = nn.Sequential(
        nn.ConvTranspose1d(4, 8, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose1d(8, 1, 8, 4, 2),
        Gain(300),
    )
    return encoder, decoder


def check_lossy_only(bundle: edgeae.Bundle, x: np.ndarray, worst_rmse: float) -> None:
    assert not bundle.manifest.exact
    stream = edgeae.encode(bundle, x)
    back = edgeae.decode(bundle, stream)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    error = back.astype(np.float64) - x
    assert np.sqrt(np.mean(error**2)) < worst_rmse
    assert len(stream) < x.nbytes
    with pytest.raises(ModelError, match="not exact"):
        edgeae.encode(bundle, x, max_error=3)
    classical = edgeae.encode(None, x, max_error=3)  # what the message advises
    assert np.abs(edgeae.decode(None, classical).astype(int) - x).max() <= 3
    breaches = [c for c in verify_bundle(bundle, windows=8) if c.passed is False]
    assert not breaches


def test_a_dense_pair_in_int8_gives_a_lossy_bundle(tmp_path, wave):
    windows = wave.reshape(-1, WINDOW)
    encoder, decoder = dense_pair()
    trained(encoder, decoder, windows)
    bundle = export_pair(encoder, decoder, windows, tmp_path / "b", name="dense", precision="int8")
    assert bundle.net.fixed_window == WINDOW
    check_lossy_only(edgeae.load(tmp_path / "b"), wave[: 10 * WINDOW + 5], 150)


def test_a_conv_pair_with_transposed_convolutions(tmp_path, wave):
    windows = wave.reshape(-1, 1, WINDOW)
    encoder, decoder = conv_pair()
    trained(encoder, decoder, windows)
    bundle = export_pair(
        encoder, decoder, windows, tmp_path / "b.zip", name="conv", precision="float"
    )
    assert (bundle.net.stride, bundle.net.latent_channels) == (8, 4)
    check_lossy_only(edgeae.load(tmp_path / "b.zip"), wave[:1000], 150)


def test_floats_get_a_grid(tmp_path, wave):
    windows = (wave / (100 * np.pi)).astype(np.float32).reshape(-1, WINDOW)
    torch.manual_seed(1)
    encoder, decoder = nn.Linear(WINDOW, 6), nn.Linear(6, WINDOW)
    trained(encoder, decoder, windows, steps=200)
    bundle = export_pair(
        encoder, decoder, windows, tmp_path / "b", name="linear", precision="float"
    )
    x = windows.reshape(-1)[:320]
    back = edgeae.decode(bundle, edgeae.encode(bundle, x))
    assert back.dtype == np.float32
    assert np.sqrt(np.mean((back - x) ** 2)) < 0.3


def test_images_with_a_flat_latent(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 1, 8, 8), dtype=np.uint8)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    decoder = nn.Sequential(
        nn.Linear(10, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 2, 2)
    )
    bundle = export_pair(
        encoder, decoder, images, tmp_path / "b", name="pictures", precision="float"
    )
    assert bundle.net.latent_shape == (1, 1)
    x = images[:5, 0]
    assert edgeae.decode(bundle, edgeae.encode(bundle, x)).shape == x.shape


def test_rows_are_items_of_many_channels(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.cumsum(rng.integers(-5, 6, (200, 12)), axis=0).astype(np.int32)
    torch.manual_seed(0)
    bundle = export_pair(
        nn.Linear(12, 4), nn.Linear(4, 12), rows, tmp_path / "b",
        name="rows", precision="float", rows=True,
    )  # fmt: skip
    assert bundle.signal.channels == 12
    assert edgeae.decode(bundle, edgeae.encode(bundle, rows)).shape == rows.shape


def test_a_channel_with_hardly_any_values_keeps_the_grid_of_the_model(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.random((300, 6), dtype=np.float32)
    torch.manual_seed(0)
    bundle = export_pair(
        nn.Linear(6, 6), nn.Linear(6, 6), rows, tmp_path / "b",
        name="rows", precision="float", rows=True,
    )  # fmt: skip
    x = rows[:40].copy()
    x[:, 2] = 0
    x[5, 2] = 0.3  # one value alone looks like a grid of its own
    back = edgeae.decode(bundle, edgeae.encode(bundle, x))
    limit = bundle.net.max_rmse[0] / bundle.signal.grids[0][1]
    assert np.sqrt(np.mean((back - x) ** 2, axis=0)).max() <= limit


def test_steps_that_do_not_divide_the_window_become_channels(tmp_path, wave):
    windows = wave.reshape(-1, 1, WINDOW)
    torch.manual_seed(0)
    encoder = nn.Conv1d(1, 2, 5, 3)  # 10 steps of 32 samples
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(20, WINDOW), nn.Unflatten(1, (1, WINDOW)))
    bundle = export_pair(encoder, decoder, windows, tmp_path / "b", name="odd", precision="float")
    assert (bundle.net.stride, bundle.net.latent_channels) == (WINDOW, 20)
    assert len(edgeae.decode(bundle, edgeae.encode(bundle, wave[:100]))) == 100


def dyadic_pair(wave: np.ndarray) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    spec = TransformSpec(widths=(8,), strides=(4,), kernels=(8,), latent=3, exponent=3)
    pair = AnalysisNet(spec), SynthesisNet(spec)
    x = torch.from_numpy(wave.reshape(-1, 1, WINDOW).astype(np.float32))
    with torch.no_grad(), calibrating(pair[0]), calibrating(pair[1]):
        pair[1](pair[0](x))
    for net in pair:
        net.connect()
        set_quantized(net, True)
    return pair


def test_dyadic_layers_certify(tmp_path, wave):
    encoder, decoder = dyadic_pair(wave)
    windows = wave.reshape(-1, 1, WINDOW)
    bundle = export_pair(encoder, decoder, windows, tmp_path / "b", name="own", precision="float")
    assert bundle.manifest.exact
    assert bundle.exact
    outcome = list(verify_bundle(bundle, windows=8))
    assert [c for c in outcome if c.passed is False] == []
    x = torch.from_numpy(windows[:9].astype(np.float32))
    with torch.no_grad():
        latent = encoder(x)
        found = bundle.encoder().run(x.numpy())
        scale = 2.0 ** np.round(np.log2(np.abs(found).sum() / latent.abs().sum().item()))
        whole = torch.round(latent * scale)
        assert np.array_equal(found, whole.numpy())
        assert np.array_equal(bundle.decoder().run(whole.numpy()), decoder(whole / scale).numpy())
    long = wave[:1000]
    back = edgeae.decode(bundle, edgeae.encode(bundle, long, max_error=2))
    assert np.abs(back.astype(int) - long).max() <= 2


def test_a_lone_dyadic_layer_is_frozen_too(tmp_path, wave):
    class Clip(nn.Module):
        def forward(self, x):
            return torch.clamp(x, -2047, 2047)

    from edgeae.models.dyadic import DyadicGrid

    torch.manual_seed(0)
    first = DyadicConv(1, 1, 4, kernel=8, stride=8, relu=False, bits=12)
    second = DyadicConv(1, 4, 8, relu=False, bits=12)
    windows = wave.reshape(-1, 1, WINDOW)
    with torch.no_grad(), calibrating(first), calibrating(second):
        second(first(torch.from_numpy(windows.astype(np.float32))))
    second.connect(first.connect(DyadicGrid(exponent=0, lo=-2047, hi=2047)))
    set_quantized(first, True)
    set_quantized(second, True)
    decoder = nn.Sequential(second, Shuffle())
    bundle = export_pair(
        nn.Sequential(Clip(), first), decoder, windows, tmp_path / "b",
        name="lone", precision="float",
    )  # fmt: skip
    assert bundle.manifest.exact, bundle.manifest.raw["metrics"]["not_exact_because"]


class Shuffle(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 1).reshape(-1, 1, WINDOW)


def test_graphs_tell_nothing_of_the_machine(tmp_path, wave):
    bundle = export_pair(
        *dense_pair(), wave.reshape(-1, WINDOW), tmp_path / "b", name="d", precision="float"
    )
    for name in ("encoder.onnx", "decoder.onnx"):
        assert (
            b"/" not in bundle.files[name].replace(b"torch.ops", b"")
            or b".py" not in (bundle.files[name])
        )
        assert b"stack_trace" not in bundle.files[name]


FACTORY = """
from torch import nn

def pair():
    return nn.Linear(32, 4), nn.Linear(4, 32)

def lone():
    return nn.Linear(32, 4)

def broken():
    raise ValueError("no weights here")

def narrow():
    return nn.Linear(32, 4), nn.Linear(4, 31)

def other_width():
    return nn.Linear(16, 4), nn.Linear(4, 16)
"""


@pytest.fixture
def factory(tmp_path, monkeypatch, wave):
    (tmp_path / "my_pair.py").write_text(FACTORY)
    np.save(tmp_path / "x.npy", wave.reshape(-1, WINDOW))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_pair", raising=False)
    return tmp_path


def test_a_factory_by_name(factory):
    bundle = export_module("my_pair:pair", "x.npy", "out", precision="float")
    assert bundle.name == "my_pair"


def test_the_command_line_exports_a_module(factory):
    arguments = ["export", "--module", "my_pair:pair", "--example", "x.npy", "--out", "out"]
    result = CliRunner().invoke(app, [*arguments, "--precision", "float"])
    assert result.exit_code == 0, result.output
    assert "exact: false" in result.output
    assert edgeae.load("out").net.fixed_window == WINDOW
    for wrong in (arguments[:3] + arguments[5:], arguments[:1] + arguments[3:]):
        assert CliRunner().invoke(app, wrong).exit_code == 2


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        ("my_pair", ConfigError, "pkg.mod:factory"),
        ("no_such_module:pair", ConfigError, "no_such_module"),
        ("my_pair:nothing", ConfigError, "nothing"),
        ("my_pair:lone", ConfigError, "returned Linear"),
        ("my_pair:broken", ConfigError, "no weights here"),
        ("my_pair:narrow", ModelError, "shape back"),
        ("my_pair:other_width", ModelError, "cannot run on the example"),
    ],
)
def test_bad_factories_are_told(factory, module, error, words):
    with pytest.raises(error, match=words):
        export_module(module, "x.npy", "out")
    assert not (factory / "out").exists()


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (np.zeros((0, 32), np.float32), "expected numbers"),
        (np.full((4, 32), np.nan, np.float32), "NaN"),
        (np.array(["a", "b"]), "expected numbers"),
        (np.zeros((2, 2, 2, 2, 2), np.float32), "shape"),
    ],
)
def test_bad_examples_are_told(tmp_path, example, words):
    pair = nn.Identity(), nn.Identity()
    with pytest.raises(SignalError, match=words):
        export_pair(*pair, example, tmp_path / "b", name="x", precision="float")


def test_bad_precision_is_told(tmp_path):
    with pytest.raises(ConfigError, match="int8, float"):
        export_pair(*dense_pair(), np.ones((4, 32)), tmp_path / "b", name="x", precision="int4")
