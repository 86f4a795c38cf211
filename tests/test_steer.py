"""Lossy streams that come to a rate or a ratio: every frame at a step of its own."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import LATENTS, series_bundle

import edgeae
from edgeae.bitstream.cdf import logistic_shape
from edgeae.bitstream.frame import Frame, Mode
from edgeae.bitstream.header import StreamHeader
from edgeae.bitstream.reader import FrameReader
from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.bitstream.writer import FrameWriter
from edgeae.errors import ConfigError, CorruptError
from edgeae.metrics import bits_per_sample, snr_db
from edgeae.runtime.bundle import Bundle, pack_coder, write_bundle
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.tasks.steer import RateCourse, Steering

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a prior whose rate follows the step, and no limit to its error."""
    folder = tmp_path_factory.mktemp("steer")
    made = series_bundle(folder / "tiny", max_rmse=(1e6,))
    statics = np.array([[0] * LATENTS, [24] * LATENTS], np.int32)
    prior = LatentPrior(shape=logistic_shape(), statics=statics)
    files = {n: d for n, d in made.files.items() if n not in ("manifest.json", "golden.npz")}
    files["coder.npz"] = pack_coder(prior, list(made.sample_priors))
    golden = np.rint(25 * np.sin(np.arange(400) / 9))[:, None].astype(np.int32)
    return write_bundle(folder / "steered", made.manifest.raw, files, golden_signal=golden)


@pytest.fixture(scope="module")
def signal() -> Array:
    """Smooth within pairs, for that is all the tiny code keeps; loud, then quiet, then loud."""
    rng = np.random.default_rng(5)
    loud = np.repeat([1.0, 0.3, 2.0], 8192)
    pairs = np.repeat(rng.normal(0, 25, 12_288), 2)
    return np.rint(pairs * loud + rng.normal(0, 0.5, 24_576)).astype(np.int16)


def coded(bundle: Bundle, x: Array, live: bool, **options: Any) -> bytes:
    if not live:
        return edgeae.encode(bundle, x, **options)
    encoder = edgeae.StreamEncoder(bundle, grid=(1, 1), **options)
    return encoder.write(x) + encoder.close()


@pytest.mark.parametrize("live", [False, True], ids=["whole", "live"])
@pytest.mark.parametrize("form", [{"profile": "radio"}, {"frame_length": 2048}], ids=str)
@pytest.mark.parametrize("rate", [2.1, 2.5, 3.3])
def test_a_stream_comes_to_its_rate(
    bundle: Bundle, signal: Array, rate: float, form: dict[str, Any], live: bool
) -> None:
    data = coded(bundle, signal, live, target_rate=rate, **form)
    assert bits_per_sample(len(data), signal.size) == pytest.approx(rate, rel=0.02)
    assert edgeae.decode(bundle, data).shape == signal.shape


@pytest.mark.parametrize("profile", ["file", "radio"])
@pytest.mark.parametrize("snr", [17.0, 20.0, 26.5])
def test_a_whole_signal_comes_to_its_ratio(
    bundle: Bundle, signal: Array, snr: float, profile: str
) -> None:
    data = edgeae.encode(bundle, signal, target_snr=snr, profile=profile)
    assert snr <= snr_db(signal, edgeae.decode(bundle, data)) <= snr + 0.5


def test_a_live_stream_comes_to_its_ratio(bundle: Bundle, signal: Array) -> None:
    encoder = edgeae.StreamEncoder(bundle, target_snr=22, profile="radio", frame_length=256)
    data = encoder.write(signal) + encoder.close()
    found = snr_db(signal, edgeae.decode(bundle, data))
    assert 22 <= found <= 22.5
    assert encoder.reached == pytest.approx(found, abs=1e-6)


def test_a_constant_ratio_takes_a_constant_step(bundle: Bundle, signal: Array) -> None:
    data = edgeae.encode(bundle, signal, target_snr=20, profile="radio")
    assert len(steps_of(data)) <= 2


@pytest.mark.parametrize("target", [{"target_rate": 2.5}, {"target_snr": 20}], ids=str)
@pytest.mark.parametrize("piece", [1, 777, 5000])
def test_chunks_never_change_the_bytes(
    bundle: Bundle, signal: Array, target: dict[str, Any], piece: int
) -> None:
    x = signal[:6000]
    options = {"profile": "radio", "frame_length": 512, "grid": (1, 1), **target}
    encoder = edgeae.StreamEncoder(bundle, **options)
    parts = [encoder.write(x[i : i + piece]) for i in range(0, len(x), piece)]
    assert b"".join([*parts, encoder.close()]) == coded(bundle, x, True, **{
        k: v for k, v in options.items() if k != "grid"
    })  # fmt: skip


def test_frames_stay_independent(bundle: Bundle, signal: Array) -> None:
    data = edgeae.encode(bundle, signal[:8192], target_rate=2.5, profile="radio")
    header, end = StreamHeader.unpack(data)
    whole = edgeae.decode(bundle, data)
    decoder = edgeae.StreamDecoder(bundle, lost="skip")
    frames = list(FrameReader(io.BytesIO(data)))
    assert len({frame.variant for frame in frames}) == 2  # some have the header's step
    first = len(edgeae_frame(data, end, header))
    parts = [decoder.write(data[:end] + data[end + first :]), decoder.close()]
    found = np.concatenate([part for part in parts if part.size])
    assert np.array_equal(found, whole[header.frame_length :])


def edgeae_frame(data: bytes, begin: int, header: StreamHeader) -> bytes:
    """The first frame of a radio stream."""
    size = int.from_bytes(data[begin : begin + 4], "big") & 511
    extra = 2 if size == 511 else 0
    size = int.from_bytes(data[begin + 4 : begin + 6], "little") if extra else size
    return data[begin : begin + 4 + extra + size + 2]


def steps_of(data: bytes) -> set[int]:
    header, _ = StreamHeader.unpack(data)
    return {
        unpack_varint(frame.payload, 0)[0] if frame.variant else header.step
        for frame in FrameReader(io.BytesIO(data))
        if frame.mode is Mode.NEURAL
    }


def test_packets_stay_small(bundle: Bundle, signal: Array) -> None:
    data = edgeae.encode(bundle, signal, target_rate=2.5, profile="radio", max_packet=200)
    assert bits_per_sample(len(data), signal.size) == pytest.approx(2.5, rel=0.02)


def test_what_is_not_finite_travels(bundle: Bundle, signal: Array) -> None:
    x = signal[:6000].astype(np.float32)
    x[[5, 3000, 3001]] = np.nan, np.inf, -np.inf
    for target in ({"target_rate": 3.0}, {"target_snr": 18.0}):
        y = edgeae.decode(bundle, edgeae.encode(bundle, x, **target, frame_length=512))
        assert np.array_equal(np.isfinite(x), np.isfinite(y))


def test_signals_without_noise_or_power(bundle: Bundle) -> None:
    for target in ({"target_rate": 2.0}, {"target_snr": 20.0}):
        for x in (np.full(5000, 7, np.int16), np.zeros(0, np.int16)):
            assert np.array_equal(edgeae.decode(bundle, edgeae.encode(bundle, x, **target)), x)


@pytest.mark.parametrize("name", ["target_rate", "target_snr"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_error": 3}, "max_error fixes what every sample may lose"),
        ({"lossless": True}, "lossless fixes what every sample may lose"),
        ({"step": 20}, "leave step out"),
    ],
)
def test_a_target_goes_with_lossy_streams_only(
    bundle: Bundle, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        edgeae.StreamEncoder(bundle, **{name: 2.0}, **options)


def test_targets_that_make_no_sense(bundle: Bundle) -> None:
    for options in (
        {"target_rate": 2.0, "target_snr": 20.0},
        {"target_rate": 0.0},
        {"target_rate": float("nan")},
        {"target_snr": float("inf")},
    ):
        with pytest.raises(ConfigError):
            edgeae.StreamEncoder(bundle, **options)
    with pytest.raises(ConfigError, match=r"at [0-9.]+ to [0-9.]+ bit/sample"):
        edgeae.StreamEncoder(bundle, target_rate=40.0)
    with pytest.raises(ConfigError, match=r"at -?[0-9]+ to [0-9]+ dB"):
        edgeae.encode(bundle, np.arange(100, dtype=np.int16), target_snr=90.0)


def test_a_frame_with_a_bad_step_is_corrupt(bundle: Bundle, signal: Array) -> None:
    data = edgeae.encode(bundle, signal[:1000], step=20)
    reader = FrameReader(io.BytesIO(data))
    (frame,) = reader

    def decoded(payload: bytes, variant: int) -> Array:
        file = io.BytesIO()
        with FrameWriter(file, reader.header) as writer:
            writer.write(replace(frame, payload=payload, variant=variant))
        return edgeae.decode(bundle, file.getvalue())

    assert np.array_equal(decoded(pack_varint(20) + frame.payload, 1), decoded(frame.payload, 0))
    for payload in (b"", pack_varint(0) + frame.payload, pack_varint((1 << 20) + 1)):
        with pytest.raises(CorruptError):
            decoded(payload, 1)
    for variant in (2, 3):
        with pytest.raises(CorruptError):
            decoded(frame.payload, variant)
    assert isinstance(frame, Frame)


def test_the_corridor_holds_at_every_frame() -> None:
    """Whatever the frames cost, the total stays within a tolerance that steps can reach."""
    rng = np.random.default_rng(0)
    course = RateCourse(1.0, overhead_bits=0, ramp=1, n_total=None)
    steering = Steering(course, low=1, high=10_000, start=50)
    for number in range(300):
        dear = 1000 * float(np.exp(rng.normal(0, 0.5)))
        steering.choose(1000, lambda step, dear=dear: dear * (100 / step) ** 0.8)
        steering.took(1000)
        if number > 10:
            assert steering.reached == pytest.approx(1.0, rel=0.02)


def test_the_command_line(
    bundle: Bundle, signal: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from edgeae.cli import app

    np.save(tmp_path / "x.npy", signal)
    start = ["compress", str(bundle.path), str(tmp_path / "x.npy"), str(tmp_path / "x.eae")]
    run = CliRunner().invoke
    done = run(app, [*start, "--target-snr", "20", "--json", "--verify"])
    assert done.exit_code == 0, done.output
    assert 20 <= json.loads(done.stdout)["snr_db"] <= 20.5
    done = run(app, [*start, "--target-rate", "2.5", "--frame-length", "2048", "--json"])
    assert json.loads(done.stdout)["bits_per_sample"] == pytest.approx(2.5, rel=0.02)
    assert run(app, [*start, "--target-rate", "2", "--lossless"]).exit_code == 2
    missed = run(app, [*start, "--target-rate", "0.5"])
    assert missed.exit_code == 2 or "the target was 0.5" in missed.output
