"""The fine end of lossy streams: sample priors go on where the window code ends."""

from __future__ import annotations

import io
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
from edgeae.errors import CorruptError
from edgeae.metrics import bits_per_sample, snr_db
from edgeae.runtime.bundle import Bundle, pack_coder, write_bundle
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.tasks.codec import FrameCodec
from edgeae.tasks.fine import FIRST_VARIANT, FineCode, fine_delta

Array = np.ndarray[Any, Any]


def weighed(folder: Path, *, weight: float = 0.05, **options: Any) -> Bundle:
    """The tiny bundle, with a recipe that says what a bit was worth in training."""
    made = series_bundle(folder / "tiny", max_rmse=(1e6,), **options)
    channels = made.signal.channels
    statics = np.array([[0] * LATENTS * channels, [24] * LATENTS * channels], np.int32)
    prior = LatentPrior(shape=logistic_shape(), statics=statics)
    files = {n: d for n, d in made.files.items() if n not in ("manifest.json", "golden.npz")}
    files["coder.npz"] = pack_coder(prior, list(made.sample_priors))
    manifest = made.manifest.raw | {"recipe": {"train": {"distortion_weight": weight}}}
    golden = np.rint(25 * np.sin(np.arange(400) / 9))[:, None].astype(np.int32)
    golden = np.repeat(golden, channels, axis=1)
    return write_bundle(folder / "weighed", manifest, files, golden_signal=golden)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return weighed(tmp_path_factory.mktemp("fine"))


@pytest.fixture(scope="module")
def signal() -> Array:
    """More than the tiny code keeps, which is the mean of every pair of samples."""
    rng = np.random.default_rng(4)
    pairs = np.repeat(rng.normal(0, 40, 8192), 2)
    return np.rint(pairs + rng.normal(0, 6, 16_384)).astype(np.int16)


def frames_of(data: bytes) -> list[Frame]:
    return list(FrameReader(io.BytesIO(data)))


def rmse(x: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((x.astype(float) - y) ** 2)))


def test_rate_and_error_go_on_down_to_the_finest_step(bundle: Bundle, signal: Array) -> None:
    found = []
    for step in (4, 8, 12):
        data = edgeae.encode(bundle, signal, step=step, frame_length=2048)
        decoded = edgeae.decode(bundle, data)
        assert all(frame.variant >= FIRST_VARIANT for frame in frames_of(data))
        assert np.abs(signal - decoded).max() <= (fine_delta(bundle, step) or 0) // 2
        found.append((-len(data), rmse(signal, decoded)))
    assert found == sorted(found)
    usual = edgeae.encode(bundle, signal, frame_length=2048)
    assert {(frame.mode, frame.variant) for frame in frames_of(usual)} == {(Mode.NEURAL, 0)}
    assert found[0][1] < 0.25 * rmse(signal, edgeae.decode(bundle, usual))


def test_the_step_follows_what_a_bit_is_worth(bundle: Bundle, tmp_path: Path) -> None:
    steps = [fine_delta(bundle, step) for step in range(1, 16)]
    known = [delta for delta in steps if delta is not None]
    assert known == sorted(known)
    assert all(delta % 2 for delta in known)
    assert bundle.net is not None
    assert fine_delta(bundle, bundle.net.default_step) is None
    precise = weighed(tmp_path, weight=0.8)
    assert (fine_delta(precise, 8) or 0) <= (steps[7] or 0) / 2
    silent = series_bundle(tmp_path / "silent")  # its manifest has no recipe
    assert fine_delta(silent, 8) is None


@pytest.mark.parametrize("profile", ["file", "radio"])
def test_targets_reach_where_the_window_code_ends(
    bundle: Bundle, signal: Array, profile: str
) -> None:
    options: dict[str, Any] = {"profile": profile, "frame_length": 1024}
    data = edgeae.encode(bundle, signal, target_rate=9.3, **options)
    assert bits_per_sample(len(data), signal.size) == pytest.approx(9.3, rel=0.02)
    data = edgeae.encode(bundle, signal, target_snr=30.0, **options)
    assert 30.0 <= snr_db(signal, edgeae.decode(bundle, data)) <= 30.5


def test_both_variants_decode_alone_and_for_many_channels(tmp_path: Path, signal: Array) -> None:
    bundle = weighed(tmp_path, channels=2)
    x = np.stack([signal[:3000], signal[5000:8000]], axis=1)
    data = edgeae.encode(bundle, x, step=4, frame_length=1000)
    header, _ = StreamHeader.unpack(data)
    code, codec = FineCode(bundle), FrameCodec(header, bundle)
    blocks = [np.ascontiguousarray(part[None].astype(np.int32)) for part in np.split(x, 3)]
    coded = code.encode(blocks, 5)
    assert [sorted(frame.variant for frame in frames) for frames in coded] == [[2, 3]] * 3
    for block, frames in zip(blocks, coded, strict=True):
        for frame in frames:
            (found,) = code.decode([frame.payload], [block.shape[:2]], frame.variant)
            assert np.array_equal(found, frame.recon)
            assert np.abs(found - block).max() <= 2
    whole = edgeae.decode(bundle, data)
    apart = [codec.decode([frame])[0] for frame in reversed(frames_of(data))]
    assert np.array_equal(np.concatenate(apart[::-1]), whole)


def test_damage_and_broken_promises_are_refused(bundle: Bundle, signal: Array) -> None:
    data = edgeae.encode(bundle, signal[:2000], step=4, frame_length=1000)
    header, _ = StreamHeader.unpack(data)
    frame = frames_of(data)[0]
    codec = FrameCodec(header, bundle)
    for payload in (b"", b"\x04" + frame.payload[1:], b"\xff\xff\x03", frame.payload[:1]):
        with pytest.raises(CorruptError):
            codec.decode([replace(frame, payload=payload)])
    for end in range(len(frame.payload)):
        with pytest.raises(CorruptError):
            codec.decode([replace(frame, payload=frame.payload[:end])])
    bounded, _ = StreamHeader.unpack(edgeae.encode(bundle, signal[:2000], max_error=1))
    with pytest.raises(CorruptError, match="stream fixes it"):
        FrameCodec(bounded, bundle).decode([frame])
