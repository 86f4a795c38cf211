"""Laws of denoising: cuts never show, state is all there is, streams do not touch each other."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from denoiser_bundles import (
    image_bundle,
    speech_bundle,
    stream_bundle,
    stream_net,
    three_axes_bundle,
)

import edgeae
from edgeae.errors import ConfigError, ModelError, SignalError
from edgeae.exporting.denoise import export_denoiser
from edgeae.runtime.bundle_files import pack_arrays, read_arrays
from edgeae.runtime.native_net import clones
from edgeae.tasks.denoise_images import denoise_images, estimate_sigma

ENGINES = ["onnxruntime", *(["native"] if clones() else [])]
MAKERS = {"stream": stream_bundle, "axes": three_axes_bundle, "speech": speech_bundle}
MODELS = Path(__file__).parents[1] / "export" / "models"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoisers")
    for name, make in {**MAKERS, "image": image_bundle}.items():
        make(folder / name)
    return folder


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture(params=ENGINES)
def bundle(request, folder, kind):
    return edgeae.load(folder / kind, engine=request.param)


def signal_for(bundle, n, seed=0):
    rng = np.random.default_rng(seed)
    if bundle.denoise.family == "speech":
        return rng.normal(0, 0.1, n).astype(np.float32)
    if bundle.signal.channels > 1:
        return rng.normal(0, 3, (n, bundle.signal.channels)).astype(np.float32)
    return np.cumsum(rng.integers(-60, 61, n)).clip(-900, 900).astype(np.int16)


def run(denoiser, x, cuts=()):
    parts = [denoiser.process(part) for part in np.split(x, cuts)]
    return np.concatenate([*parts, denoiser.flush()])


@lru_cache(maxsize=8)
def denoiser_of(bundle):
    return edgeae.Denoiser(bundle)


# -- laws ----------------------------------------------------------------------------------


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_how_a_stream_is_cut_never_shows(bundle, data):
    n = data.draw(st.integers(0, 500))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=40)))
    x = signal_for(bundle, n)
    denoiser = denoiser_of(bundle)
    whole = run(denoiser, x)
    assert len(whole) == n + denoiser.delay_samples
    assert np.array_equal(run(denoiser, x, cuts), whole)


def test_a_whole_signal_comes_back_without_the_delay(bundle):
    for n in (0, 1, 7, 333):
        x = signal_for(bundle, n)
        denoiser = edgeae.Denoiser(bundle)
        assert np.array_equal(edgeae.denoise(bundle, x), run(denoiser, x)[denoiser.delay_samples :])


def test_each_block_gives_as_many_samples_of_its_own_kind(bundle):
    denoiser = edgeae.Denoiser(bundle)
    x = signal_for(bundle, 200)
    for part in np.split(x, [0, 1, 2, 2, 9, 100]):
        out = denoiser.process(part)
        assert out.shape == part.shape
        assert out.dtype == part.dtype


def test_a_saved_state_goes_on_bit_for_bit_elsewhere(bundle, folder, kind):
    x = signal_for(bundle, 700)
    whole = run(edgeae.Denoiser(bundle), x)
    parts, state = [], None
    for i, part in enumerate(np.split(x, [3, 150, 151, 420, 601])):
        denoiser = edgeae.Denoiser(edgeae.load(folder / kind, engine=ENGINES[i % len(ENGINES)]))
        if state is not None:
            denoiser.restore(state)
        parts.append(denoiser.process(part))
        state = denoiser.state()
    parts.append(denoiser.flush())
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_batch_of_streams_is_each_alone(bundle):
    x = np.stack([signal_for(bundle, 300, seed) for seed in range(4)])
    denoiser = edgeae.Denoiser(bundle, streams=4)
    parts = [denoiser.process(x[:, a:b]) for a, b in ((0, 1), (1, 77), (77, 300))]
    found = np.concatenate([*parts, denoiser.flush()], axis=1)
    for one, alone in zip(found, x, strict=True):
        assert np.array_equal(one, run(edgeae.Denoiser(bundle), alone))


def test_engines_give_the_same_bits(folder, kind):
    found = []
    for engine in ENGINES:
        bundle = edgeae.load(folder / kind, engine=engine)
        found.append(edgeae.denoise(bundle, signal_for(bundle, 999)))
    assert all(np.array_equal(found[0], other) for other in found)


def test_ten_minutes_do_not_drift(folder):
    bundle = edgeae.load(folder / "stream")
    x = signal_for(bundle, 10 * 60 * 360)
    denoiser = edgeae.Denoiser(bundle)
    parts = [denoiser.process(x[i : i + 96]) for i in range(0, len(x), 96)]
    assert np.array_equal(np.concatenate(parts), edgeae.Denoiser(bundle).process(x))
    denoiser.reset()  # and the last minute does not know how many came before
    tail = run(edgeae.Denoiser(bundle), x[-21600:])
    assert np.array_equal(tail[2000:21600], np.concatenate(parts)[-21600:][2000:])


def test_reset_and_flush_begin_anew(bundle):
    x = signal_for(bundle, 123)
    denoiser = edgeae.Denoiser(bundle)
    first = run(denoiser, x)
    denoiser.process(x[:50])
    denoiser.reset()
    assert np.array_equal(run(denoiser, x), first)


def test_the_delay_is_what_is_said(folder):
    """A denoiser's start-up holds the center, and its output does not hang on what comes later."""
    bundle = edgeae.load(folder / "stream")
    denoiser = edgeae.Denoiser(bundle)
    assert denoiser.delay_samples == 8
    x = signal_for(bundle, 400)
    y = denoiser.process(x)
    assert (y[:8] == 30).all()
    other = x.copy()
    other[200:] += 50
    denoiser.reset()
    assert np.array_equal(denoiser.process(other)[:200], y[:200])


@lru_cache(maxsize=8)
def recipe_bundles():
    return sorted(MODELS.glob("denoise-*/manifest.json"))


@pytest.mark.long
def test_ten_thousand_cuts_of_the_shipped_denoisers():
    """At least 10,000 random ways to cut a signal, spread over bundles, engines and batches."""
    rng = np.random.default_rng(1)
    bundles = []
    for manifest in recipe_bundles():
        for engine in ENGINES:
            model = edgeae.load(manifest.parent, engine=engine)
            if not model.signal.is_image:
                bundles.append(model)
    if not bundles:
        pytest.skip("no denoisers are exported yet")
    done = 0
    for model in bundles:
        denoiser = edgeae.Denoiser(model)
        n = 3 * denoiser.delay_samples + 400
        x = signal_for(model, n, seed=done)
        whole = run(denoiser, x)
        for _ in range(-(-10_000 // len(bundles))):
            cuts = np.sort(rng.integers(0, n + 1, rng.integers(1, 9)))
            assert np.array_equal(run(denoiser, x, cuts), whole), (model.name, model.engine, cuts)
            done += 1
    assert done >= 10_000


# -- what users bring ----------------------------------------------------------------------


def test_samples_that_are_no_number_are_held_and_counted(folder):
    bundle = edgeae.load(folder / "stream")
    x = signal_for(bundle, 300).astype(np.float32)
    broken, mended = x.copy(), x.copy()
    broken[[0, 1, 50, 51, 52, 199]] = np.nan
    mended[[0, 1]] = 30
    mended[[50, 51, 52]] = x[49]
    mended[199] = x[198]
    denoiser = edgeae.Denoiser(bundle)
    found = np.concatenate([denoiser.process(p) for p in np.split(broken, [1, 51, 200])])
    assert denoiser.held_samples == 6
    assert np.array_equal(found, edgeae.Denoiser(bundle).process(mended))
    assert np.isfinite(found).all()


def test_what_is_beyond_the_range_is_cut_to_it(bundle):
    x = signal_for(bundle, 400).astype(np.float64)
    x[100:110] = np.inf
    x[200] = -1e300
    y = edgeae.denoise(bundle, x)
    assert np.isfinite(y).all()


def test_silence_stays_finite_and_calm(bundle):
    y = edgeae.denoise(bundle, np.zeros_like(signal_for(bundle, 2000)))
    assert np.isfinite(y).all()
    if bundle.denoise.family == "speech":
        assert not y.any()


def test_integers_are_rounded_and_saturated(folder):
    bundle = edgeae.load(folder / "stream")
    x = signal_for(bundle, 500)
    y = edgeae.denoise(bundle, x)
    small = edgeae.denoise(bundle, x.clip(-128, 127).astype(np.int8))
    wide = edgeae.denoise(bundle, x.clip(-128, 127).astype(np.int64))
    assert y.dtype == np.int16
    assert np.array_equal(small, wide.clip(-128, 127))


def test_a_grid_is_the_unit_of_the_samples(folder):
    bundle = edgeae.load(folder / "axes")
    x = np.round(signal_for(bundle, 200), 2).astype(np.float64)
    y = edgeae.denoise(bundle, x)
    assert y.shape == x.shape
    steps = y * [100, 100, 50]
    assert np.allclose(steps, np.rint(steps), atol=1e-9)


def test_sound_is_taken_at_full_scale(folder):
    bundle = edgeae.load(folder / "speech")
    x = np.rint(signal_for(bundle, 900) * 32768).astype(np.int16)
    y = edgeae.denoise(bundle, x)
    floats = edgeae.denoise(bundle, x / 32768.0)
    assert y.dtype == np.int16
    assert np.abs(y / 32768.0 - floats).max() <= 0.5 / 32768
    unsigned = edgeae.denoise(bundle, (x // 256 + 128).astype(np.uint8))
    assert unsigned.dtype == np.uint8
    assert abs(float(unsigned.mean()) - 128) < 2


def test_another_rate_is_refused_and_told(folder):
    with pytest.raises(SignalError, match="wants 360 Hz"):
        edgeae.Denoiser(folder / "stream", rate_hz=500)
    assert edgeae.Denoiser(folder / "stream", rate_hz=360.0).delay_samples == 8


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((10, 2)), "2 channel"),
        (np.zeros((3, 10, 1)), "shape"),
        (np.zeros(()), "shape"),
        (np.zeros(4, complex), "complex"),
        (np.array(["a"]), "samples are"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(folder, block, message):
    denoiser = edgeae.Denoiser(folder / "stream")
    with pytest.raises(SignalError, match=message):
        denoiser.process(block)


def test_stereo_says_what_to_do(folder):
    with pytest.raises(SignalError, match="--each-channel"):
        edgeae.denoise(folder / "speech", np.zeros((100, 2), np.float32))
    with pytest.raises(SignalError, match="3"):
        edgeae.denoise(folder / "axes", np.zeros(100, np.float32))
    with pytest.raises(SignalError, match="2 streams"):
        edgeae.Denoiser(folder / "stream", streams=3).process(np.zeros((2, 5)))


def test_calls_that_make_no_sense_are_refused(folder):
    with pytest.raises(ConfigError, match="streams"):
        edgeae.Denoiser(folder / "stream", streams=0)
    with pytest.raises(ModelError, match="images"):
        edgeae.Denoiser(folder / "image")
    with pytest.raises(SignalError, match="shape"):
        edgeae.denoise(folder / "stream", np.zeros((2, 3, 4, 1)))
    with pytest.raises(ConfigError, match="engine"):
        edgeae.load(folder / "stream", engine="gpu")


# -- states --------------------------------------------------------------------------------


def test_a_state_of_another_model_or_a_damaged_one_is_refused(folder):
    denoiser = edgeae.Denoiser(folder / "stream")
    x = signal_for(denoiser.bundle, 150)
    denoiser.process(x[:101])
    state = denoiser.state()
    expected = denoiser.process(x[101:])
    good = read_arrays(state, "state")
    hostile = {
        "net.state_1": good["net.state_1"] + 30_000,
        "net.state_0": good["net.state_0"][:, :, 1:],
        "net.state_2": good["net.state_2"].astype(np.float32),
        "pending": np.full_like(good["pending"], np.nan),
        "queue": np.zeros((1, 1, 9)),
        "counts": np.array([-1, 0]),
        "fingerprint": np.zeros(8, np.uint8),
    }
    denoiser.restore(state)
    for name, value in hostile.items():
        with pytest.raises(ModelError):
            denoiser.restore(pack_arrays({**good, name: value}))
        with pytest.raises(ModelError):
            denoiser.restore(pack_arrays({k: v for k, v in good.items() if k != name}))
    with pytest.raises(ModelError):
        denoiser.restore(state[: len(state) // 2])
    with pytest.raises(ModelError):
        edgeae.Denoiser(folder / "stream", streams=2).restore(state)
    with pytest.raises(ModelError):
        edgeae.Denoiser(folder / "speech").restore(state)
    assert np.array_equal(denoiser.process(x[101:]), expected)  # none of them left a mark


# -- images --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_images_of_any_size_and_shape(folder, engine):
    bundle = edgeae.load(folder / "image", engine=engine)
    rng = np.random.default_rng(3)
    for shape in ((1, 1), (7, 10), (33, 24)):
        x = rng.integers(0, 256, (3, *shape, 1)).astype(np.uint8)
        found = edgeae.denoise(bundle, x, sigma=[5, 20, 50])
        assert found.dtype == np.uint8
        assert found.shape == x.shape
        assert np.array_equal(edgeae.denoise(bundle, x[1, ..., 0], sigma=20), found[1, ..., 0])
        assert np.array_equal(edgeae.denoise(bundle, x[..., 0], sigma=[5, 20, 50]), found[..., 0])
        floats = edgeae.denoise(bundle, x.astype(np.float32), sigma=[5, 20, 50])
        assert np.array_equal(floats, found)


def test_engines_give_the_same_images(folder):
    x = np.random.default_rng(4).integers(0, 256, (2, 31, 18)).astype(np.uint8)
    found = [edgeae.denoise(edgeae.load(folder / "image", engine=e), x) for e in ENGINES]
    assert all(np.array_equal(found[0], other) for other in found)


def test_sigma_is_estimated_where_it_is_not_told():
    rng = np.random.default_rng(5)
    smooth = np.add.outer(np.linspace(0, 200, 200), np.linspace(0, 50, 160))
    for sigma in (5, 15, 50):
        assert estimate_sigma(smooth + rng.normal(0, sigma, smooth.shape)) == pytest.approx(
            sigma, rel=0.06
        )
    assert estimate_sigma(np.zeros((1, 5))) == 0


@pytest.mark.parametrize(
    ("images", "sigma", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8).swapaxes(0, 2), 5, None),
        (np.zeros((8, 8), np.uint16), 5, "uint16"),
        (np.zeros((2, 8, 8, 3), np.uint8), 5, "channel"),
        (np.zeros((0, 8, 8), np.uint8), 5, "pixels"),
        (np.full((8, 8), np.nan), 5, "NaN"),
        (np.zeros((8, 8), np.uint8), -1, "sigma"),
        (np.zeros((8, 8), np.uint8), [1, 2], "sigma"),
    ],
)
def test_images_that_do_not_fit_are_refused(folder, images, sigma, message):
    bundle = edgeae.load(folder / "image")
    if message is None:
        assert denoise_images(bundle, images, sigma=sigma).shape == images.shape
        return
    with pytest.raises(SignalError, match=message):
        denoise_images(bundle, images, sigma=sigma)


# -- other devices' levels -------------------------------------------------------------------


SECOND = 40


@pytest.fixture(params=ENGINES)
def levelled(request, tmp_path):
    """Three axes at 40 Hz that are to spread by 60, 50 and 40 indices within a second."""
    net = stream_net(n_in=3, n_out=3, hop=2, first=6, center=(3, -5, 0), shift=(0, 0, 0))
    signal = {"rate_hz": float(SECOND), "dtype": "float32", "grids": [[1, 100]], "unit": "g"}
    made = export_denoiser(net, tmp_path / "b", name="b", signal=signal, level=(60.0, 50.0, 40.0))
    return edgeae.load(made.path, engine=request.param)


def device_signal(n, strength=1.0, zero=(0.03, -0.05, 0.0), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.12, (n, 3)) * strength + np.array(zero)


def test_a_gain_makes_another_device_like_the_one_that_was_trained_on(levelled):
    x = np.round(device_signal(500), 2)
    usual = edgeae.denoise(levelled, x)
    for gain, zero in ((0.25, 0.0), (8.0, [1.0, 0.0, -2.0])):
        center = np.array([0.03, -0.05, 0.0])
        other = (x - center) / gain + np.array(zero)
        found = edgeae.denoise(levelled, other, gain=gain, zero=zero)
        assert np.allclose((found - np.array(zero)) * gain + center, usual, atol=1e-9)


@pytest.mark.parametrize(
    ("strength", "gain"), [(1.0, 1.0), (1.8, 1.0), (4.4, 0.25), (0.3, 2.0), (1e-9, 1.0), (0, 1.0)]
)
def test_what_is_measured_is_a_power_of_two_and_the_middle(levelled, strength, gain):
    x = device_signal(4 * SECOND + 7, strength, zero=(1.0, 2.0, 3.0))
    denoiser = edgeae.Denoiser(levelled, gain="auto")
    denoiser.process(x[: 4 * SECOND - 1])
    assert denoiser.gain.tolist() == [1.0]
    denoiser.process(x[4 * SECOND - 1 :])
    assert denoiser.gain.tolist() == [gain]
    middle = np.sort(x[: 4 * SECOND], axis=0)[(4 * SECOND - 1) // 2]
    assert np.allclose(denoiser.zero, middle)


def test_once_measured_it_is_as_if_told_from_the_start(levelled):
    x = device_signal(400, 5.0)
    x[[3, 9, 200], 1] = np.nan
    x[11, 2] = np.inf
    auto = edgeae.Denoiser(levelled, gain="auto")
    found = auto.process(x)
    n = 4 * SECOND
    told = edgeae.Denoiser(levelled, gain=float(auto.gain[0]), zero=auto.zero[0])
    rests = (
        np.array([0.03, -0.05, 0.0]) - auto.zero[0]
    )  # of what was measured, and of what was told
    assert np.allclose(told.process(x)[n:] + rests, found[n:], atol=1e-9)
    assert np.array_equal(edgeae.Denoiser(levelled).process(x)[:n], found[:n])
    assert auto.held_samples == told.held_samples == 3
    assert np.allclose(auto.flush(), told.flush() + rests, atol=1e-9)
    assert np.array_equal(auto.process(x), found)  # a new signal is measured anew


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_how_a_measured_stream_is_cut_or_saved_never_shows(levelled, data):
    n = data.draw(st.integers(0, 6 * SECOND))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=12)))
    x = np.stack([device_signal(n, 6.0), device_signal(n, 0.2, seed=1)])
    denoiser = edgeae.Denoiser(levelled, streams=2, gain="auto")
    whole = np.concatenate([denoiser.process(x), denoiser.flush()], axis=1)
    parts = []
    for piece in np.split(x, cuts, axis=1):
        parts.append(denoiser.process(piece))
        state = denoiser.state()
        denoiser = edgeae.Denoiser(levelled, streams=2)
        denoiser.restore(state)
    denoiser.process(x[:, :0])  # so that it knows the blocks' dtype
    parts.append(denoiser.flush())
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    for one, alone in zip(whole, x, strict=True):
        assert np.array_equal(run(edgeae.Denoiser(levelled, gain="auto"), alone), one)


def test_levels_that_are_none_say_what_is_wanted(levelled, folder):
    for gain in (0, -1.0, np.nan, np.inf, "loud", True):
        with pytest.raises(ConfigError, match="expected a positive number, or 'auto'"):
            edgeae.Denoiser(levelled, gain=gain)
    for zero in (np.nan, [1.0, 2.0], "here"):
        with pytest.raises(ConfigError, match="expected a number, or one for each channel"):
            edgeae.Denoiser(levelled, zero=zero)
    with pytest.raises(ConfigError, match="state both, or neither"):
        edgeae.Denoiser(levelled, gain="auto", zero=0)
    with pytest.raises(ConfigError, match="does not say how strong"):
        edgeae.Denoiser(folder / "axes", gain="auto")
    with pytest.raises(ConfigError, match="follows the level of sound by itself"):
        edgeae.Denoiser(folder / "speech", gain=2.0)
    with pytest.raises(ConfigError, match="this bundle takes images"):
        edgeae.denoise(folder / "image", np.zeros((8, 8), np.uint8), gain=2.0)


def test_a_damaged_level_is_refused(levelled):
    denoiser = edgeae.Denoiser(levelled, gain="auto")
    denoiser.process(device_signal(30))
    arrays = read_arrays(denoiser.state(), "state")
    for name, value in (
        ("gain", np.zeros(1)),
        ("zero", np.full((1, 3), np.nan)),
        ("level.seen", np.zeros((1, 2, 30))),
        ("level.missing", np.array([7])),
    ):
        with pytest.raises(ModelError, match="the state"):
            denoiser.restore(pack_arrays(arrays | {name: value}))
    denoiser.restore(pack_arrays(arrays))
