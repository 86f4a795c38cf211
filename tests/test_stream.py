from __future__ import annotations

import io
import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import dense_bundle, image_bundle, prior_only_bundle, series_bundle

import edgeae
from edgeae import StreamDecoder, StreamEncoder
from edgeae.bitstream.frame import Frame, Mode, pack_frame
from edgeae.bitstream.reader import FrameReader
from edgeae.errors import (
    ConfigError,
    CorruptError,
    EdgeAEError,
    ModelError,
    NotAStreamError,
    SignalError,
    StreamError,
    TruncatedError,
    WrongModelError,
)
from edgeae.tasks.codec import FrameCodec
from edgeae.tasks.stream import read_items

PROMISES = [{"lossless": True}, {"max_error": 4}, {}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return series_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_bundle(tmp_path_factory.mktemp("bundle") / "images")


def walk(n: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """A random walk that suits the sample prior of the tiny bundles."""
    rng = np.random.default_rng(seed)
    return np.rint(np.cumsum(rng.logistic(0, scale, n))).astype(np.int16)


def wave(n: int) -> np.ndarray:
    return np.rint(300 * np.sin(np.arange(n) / 15)).astype(np.int16)


def pairs(n: int) -> np.ndarray:
    """Jumps that last two samples: the tiny window code has them exactly."""
    return np.repeat(np.random.default_rng(1).integers(-200, 200, n // 2), 2).astype(np.int16)


def modes(data: bytes) -> Counter:
    return Counter(frame.mode for frame in FrameReader(io.BytesIO(data)))


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=12),
    promise=st.sampled_from(PROMISES),
    profile=st.sampled_from(["file", "radio"]),
    n=st.integers(0, 400),
)
def test_chunking_never_changes_the_bytes(bundle, cuts, promise, profile, n):
    x = walk(n)
    whole = StreamEncoder(bundle, frame_length=64, profile=profile, **promise)
    expected = whole.write(x) + whole.close()
    encoder = StreamEncoder(bundle, frame_length=64, profile=profile, **promise)
    places = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [encoder.write(x[a:b]) for a, b in itertools.pairwise(places)]
    assert b"".join(parts) + encoder.close() == expected
    # and no more does it on the way back
    decoder = StreamDecoder(bundle)
    places = [0, *sorted(min(cut, len(expected)) for cut in cuts), len(expected)]
    samples = [decoder.write(expected[a:b]) for a, b in itertools.pairwise(places)]
    samples.append(decoder.close())
    parts = [part for part in samples if len(part)]
    if n:
        assert np.array_equal(np.concatenate(parts), edgeae.decode(bundle, expected))


@pytest.mark.parametrize("promise", PROMISES)
def test_frames_coded_together_equal_frames_coded_alone(bundle, promise):
    x = walk(1000)
    encoder = StreamEncoder(bundle, frame_length=100, **promise)
    encoder.write(x[:100])
    codec = FrameCodec(encoder.header, bundle)
    blocks = list(x.reshape(10, 100, 1))
    together = codec.encode(blocks)
    assert together == [codec.encode([block])[0] for block in blocks]
    alone = [codec.decode([frame])[0] for frame in together]
    assert np.array_equal(np.concatenate(codec.decode(together)), np.concatenate(alone))


def test_every_mode_is_chosen_where_it_is_the_smallest(bundle, images, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(-(2**15), 2**15, 2000).astype(np.int16)
    steady = np.full(2000, 7, np.int16)
    ramp = np.arange(4000, dtype=np.int16) * 5
    seen = set()
    for x, options in [
        (noise, {"lossless": True}),
        (steady, {"lossless": True}),
        (ramp, {"lossless": True}),
        (walk(2000), {"lossless": True, "frame_length": 32}),
        (pairs(2000), {}),
    ]:
        data = edgeae.encode(bundle, x, **options)
        seen |= set(modes(data))
        if options:
            assert np.array_equal(edgeae.decode(bundle, data), x)
    assert seen >= {Mode.RAW, Mode.CONSTANT, Mode.CLASSICAL, Mode.NEURAL, Mode.NEURAL_PAST}


def test_the_residual_mode_decodes_what_it_wrote(bundle):
    """Pairs that jump and then stay: the code tells where, the past cannot."""
    rng = np.random.default_rng(3)
    x = np.repeat(rng.integers(-300, 300, 400), 4).astype(np.int16)
    data = edgeae.encode(bundle, x, max_error=2, frame_length=128)
    y = edgeae.decode(bundle, data)
    assert np.abs(x.astype(int) - y).max() <= 2
    header = FrameReader(io.BytesIO(data)).header
    codec = FrameCodec(header, bundle)
    blocks = [codec._to_indices(x[:128, None])]
    (candidates,) = codec._code_bounded(blocks, every=True)
    assert [c.mode for c in candidates if c.mode is not Mode.RECALL] == [
        Mode.CLASSICAL,
        Mode.NEURAL_PAST,
        Mode.NEURAL_RESIDUAL,
    ]
    for candidate in candidates:
        frame = codec._choose(blocks[0], [candidate])
        assert frame.mode is candidate.mode
        (decoded,) = codec.decode([frame])
        assert np.abs(decoded[:, 0].astype(int) - x[:128]).max() <= 2


@pytest.mark.parametrize("shape", [(37,), (37, 1), (37, 3), (9, 8, 8), (9, 8, 8, 1), (4, 5, 6, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_shape_and_dtype_come_back(shape, dtype):
    x = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    y = edgeae.decode(None, edgeae.encode(None, x, lossless=True))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert np.array_equal(x, y)


@pytest.mark.parametrize("promise", PROMISES)
def test_images_go_through_their_bundle(images, promise):
    x = np.random.default_rng(0).integers(90, 110, (70, 8, 8)).astype(np.uint8)
    data = edgeae.encode(images, x, **promise)
    y = edgeae.decode(images, data)
    assert y.shape == x.shape
    assert np.abs(x.astype(int) - y).max() <= (0 if "lossless" in promise else 25)
    assert np.array_equal(edgeae.decode(images, data, start=65, stop=68), y[65:68])


def test_windows_of_fixed_length(tmp_path):
    bundle = dense_bundle(tmp_path / "b")
    x = wave(1003)
    y = edgeae.decode(bundle, edgeae.encode(bundle, x, frame_length=250))
    assert np.abs(x.astype(int) - y).max() <= 13


def test_a_bundle_without_nets(tmp_path):
    bundle = prior_only_bundle(tmp_path / "b")
    x = walk(3000)
    data = edgeae.encode(bundle, x, lossless=True, frame_length=50)
    assert Mode.NEURAL_PAST in modes(data)
    assert np.array_equal(edgeae.decode(bundle, data), x)
    with pytest.raises(ConfigError, match="window code"):
        edgeae.encode(bundle, x)


@pytest.mark.parametrize("profile", ["file", "radio"])
def test_nothing_written_and_one_sample(profile):
    encoder = StreamEncoder(None, dtype=np.float32, channels=2, lossless=True, profile=profile)
    empty = edgeae.decode(None, encoder.close())
    assert (empty.shape, empty.dtype) == ((0, 2), np.float32)
    one = np.array([[1.5, np.nan]], np.float32)
    data = edgeae.encode(None, one, lossless=True, profile=profile)
    assert edgeae.decode(None, data).tobytes() == one.tobytes()


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (63, 65), (500, None), (None, 0), (990, 5000)])
@pytest.mark.parametrize("profile", ["file", "radio"])
def test_seeking_equals_slicing(bundle, start, stop, profile):
    x = walk(1000)
    data = edgeae.encode(bundle, x, lossless=True, frame_length=64, profile=profile)
    assert np.array_equal(edgeae.decode(bundle, data, start=start, stop=stop), x[start:stop])


def test_seeking_only_reads_what_it_needs(bundle):
    x = walk(64 * 100)
    data = bytearray(edgeae.encode(bundle, x, lossless=True, frame_length=64))
    data[200] ^= 0xFF  # damage in one of the first frames
    assert np.array_equal(edgeae.decode(bundle, data, start=5000, stop=5100), x[5000:5100])
    with pytest.raises(StreamError):
        edgeae.decode(bundle, data)


def test_reading_in_pieces_from_a_file(bundle):
    x = walk(1000)
    data = edgeae.encode(bundle, x, lossless=True, frame_length=64)
    parts = list(read_items(bundle, io.BytesIO(data), start=100, stop=300))
    assert np.array_equal(np.concatenate(parts), x[100:300])


def test_flush_makes_everything_decodable(bundle):
    x = walk(100)
    encoder, decoder = StreamEncoder(bundle, lossless=True), StreamDecoder(bundle)
    assert encoder.write(x[:30]) == b""
    assert np.array_equal(decoder.write(encoder.flush()), x[:30])
    assert encoder.flush() == b""
    encoder.write(x[30:])
    assert np.array_equal(decoder.write(encoder.close()), x[30:])
    assert encoder.close() == b""
    decoder.close()
    for call in (lambda: encoder.write(x), encoder.flush, lambda: decoder.write(b"")):
        with pytest.raises(ConfigError, match="closed"):
            call()


def test_context_managers_lose_nothing_silently(bundle):
    x = walk(100)
    file = io.BytesIO()
    with StreamEncoder(bundle, lossless=True, file=file) as encoder:
        encoder.write(x)
    assert np.array_equal(edgeae.decode(bundle, file.getvalue()), x)
    with (
        pytest.raises(ConfigError, match=r"call close\(\)"),
        StreamEncoder(bundle, lossless=True) as encoder,
    ):
        encoder.write(x)
    with pytest.raises(TruncatedError), StreamDecoder(bundle) as decoder:
        decoder.write(file.getvalue()[:-3])


def test_an_interrupted_encoder_leaves_its_frames_behind(bundle):
    x = walk(1000)
    file = io.BytesIO()

    def interrupted():
        with StreamEncoder(bundle, lossless=True, frame_length=64, file=file) as encoder:
            encoder.write(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    decoder = StreamDecoder(bundle)
    assert np.array_equal(decoder.write(file.getvalue()), x[: 15 * 64])
    with pytest.raises(TruncatedError, match="960 items"):
        decoder.close()


def test_truncation_at_every_byte_gives_the_frames_before(bundle):
    x = walk(200)
    data = edgeae.encode(bundle, x, lossless=True, frame_length=32)
    seen = set()
    for size in range(len(data)):
        decoder = StreamDecoder(bundle)
        y = decoder.write(data[:size])
        assert np.array_equal(y, x[: len(y)])
        seen.add(len(y))
        with pytest.raises((TruncatedError, NotAStreamError)):
            decoder.close()
    assert seen == {0, 32, 64, 96, 128, 160, 192, 200}


@pytest.mark.parametrize("profile", ["file", "radio"])
@pytest.mark.parametrize("promise", PROMISES)
def test_damage_never_goes_unnoticed(bundle, profile, promise):
    x = np.concatenate([walk(80), wave(40), np.full(40, 3, np.int16)])
    data = edgeae.encode(bundle, x, frame_length=32, profile=profile, **promise)
    good = edgeae.decode(bundle, data)
    rng = np.random.default_rng(0)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        decoder = StreamDecoder(bundle, lost="skip")
        parts = []
        try:
            parts.append(decoder.write(damaged))
            parts.append(decoder.close())
        except EdgeAEError:
            pass
        else:
            assert profile == "radio"
        y = np.concatenate([part for part in parts if len(part)] or [good[:0]])
        if profile == "file":
            assert np.array_equal(y, good[: len(y)])
        else:  # frames may be missing, but those that came are right
            kept = np.ones(len(good), bool)
            for first, count in decoder.lost_items:
                kept[first : first + count] = False
            assert np.array_equal(y, good[kept][: len(y)])


def test_random_frames_never_crash_the_codec(bundle):
    """Frames whose checksums are right and whose contents are nonsense."""
    rng = np.random.default_rng(0)
    x = walk(64)
    for promise in PROMISES:
        encoder = StreamEncoder(bundle, frame_length=64, **promise)
        encoder.write(x)
        codec = FrameCodec(encoder.header, bundle)
        for k in range(300):
            frame = edgeae_frame(rng, Mode(k % 6))
            try:
                (y,) = codec.decode([frame])
            except EdgeAEError:
                continue
            assert y.shape == (frame.n_items, 1)


def edgeae_frame(rng, mode):
    return Frame(
        mode=mode,
        n_items=int(rng.integers(1, 65)),
        payload=rng.bytes(int(rng.integers(0, 60))),
        check=None,
        exceptions=rng.bytes(int(rng.integers(1, 20))) if rng.integers(2) else b"",
        variant=int(rng.integers(4)) if mode >= Mode.NEURAL_RESIDUAL else 0,
    )


def test_lost_packets_are_told_and_bridged(bundle):
    x = walk(64 * 6)
    encoder = StreamEncoder(bundle, lossless=True, profile="radio", frame_length=64)
    packets = [encoder.write(part) for part in x.reshape(6, 64)]
    received = [packets[0], packets[1], packets[4], packets[5]]
    decoder = StreamDecoder(bundle)
    y = np.concatenate([decoder.write(packet) for packet in received] + [decoder.close()])
    assert decoder.lost_items == [(128, 128)]
    assert decoder.n_items == len(y) == len(x)
    assert np.array_equal(y[:128], x[:128])
    assert np.array_equal(y[256:], x[256:])
    assert (y[128:256] == x[127]).all()
    decoder = StreamDecoder(bundle, lost="skip")
    y = np.concatenate([decoder.write(packet) for packet in received] + [decoder.close()])
    assert np.array_equal(y, np.concatenate([x[:128], x[256:]]))


def test_a_gap_too_long_to_fill_is_refused():
    """A forged position must not make a decoder invent gigabytes."""
    side = 128
    n_lost = 2 + (1 << 26) // side**2
    encoder = StreamEncoder(None, lossless=True, profile="radio", frame_length=1)
    x = np.zeros((1, side, side), np.uint8)
    first = encoder.write(x)
    header = encoder.header
    frame = Frame(mode=Mode.CONSTANT, n_items=1, payload=b"\0")
    packets = [pack_frame(frame, header, at, header.checksum) for at in (n_lost, n_lost + 1)]
    decoder = StreamDecoder(None)
    tracemalloc.start()
    y = decoder.write(first + packets[0])
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    assert y.tobytes() == x.tobytes()  # what came before the forgery is not lost
    assert isinstance(decoder.failure, CorruptError)
    with pytest.raises(CorruptError, match="too many"):
        decoder.write(packets[1])
    with pytest.raises(CorruptError, match="too many"):
        StreamDecoder(None, header=header).write(packets[0])
    skipping = StreamDecoder(None, header=header, lost="skip")
    assert skipping.write(packets[0]).shape == (1, side, side)
    assert skipping.lost_items == [(0, n_lost)]


def test_packets_are_never_larger_than_told(bundle):
    x = np.concatenate([walk(500), np.random.default_rng(1).integers(-(2**15), 2**15, 500)])
    x = x.astype(np.int16)
    sizes = []
    encoder = StreamEncoder(bundle, lossless=True, profile="radio", max_packet=51)
    data = encoder.write(x) + encoder.close()
    header = encoder.header
    start = 0
    for frame in FrameReader(io.BytesIO(data)):
        sizes.append(len(pack_frame(frame, header, start, header.checksum)))
        start += frame.n_items
    assert max(sizes) <= 51
    assert np.array_equal(edgeae.decode(bundle, data), x)
    with pytest.raises(ConfigError, match="larger max_packet"):
        edgeae.encode(bundle, x, lossless=True, profile="radio", max_packet=12)


def test_another_bundle_is_refused_with_both_fingerprints(bundle, tmp_path):
    x = walk(100)
    data = edgeae.encode(bundle, x, lossless=True)
    other = prior_only_bundle(tmp_path / "b")
    with pytest.raises(WrongModelError, match=bundle.fingerprint.hex()) as caught:
        edgeae.decode(other, data)
    assert other.fingerprint.hex() in str(caught.value)
    with pytest.raises(WrongModelError, match="no bundle was given"):
        edgeae.decode(None, data)


def test_a_stream_without_a_model_decodes_with_any(bundle):
    x = walk(100)
    data = edgeae.encode(None, x, lossless=True)
    assert np.array_equal(edgeae.decode(bundle, data), x)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros(3, np.int16), np.zeros(3, np.int32), "samples are int32, the stream is int16"),
        (np.zeros((3, 2), np.int16), np.zeros((3, 3), np.int16), "2 channel"),
        (np.zeros((3, 1), np.int16), np.zeros(3, np.int16), "2 axes"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((3, 5, 4), np.uint8), "pixels"),
    ],
)
def test_pieces_must_match(first, second, message):
    encoder = StreamEncoder(None, lossless=True)
    encoder.write(first)
    with pytest.raises(SignalError, match=message):
        encoder.write(second)


@pytest.mark.parametrize("x", [np.zeros(3, complex), np.zeros(3, bool), np.array(["a"]), 3.0])
def test_what_is_no_signal(x):
    with pytest.raises(SignalError):
        edgeae.encode(None, x, lossless=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error": 1, "lossless": True}, "exclude"),
        ({"max_error": -1}, "negative"),
        ({"max_error": float("nan")}, "finite"),
        ({"profile": "wire", "lossless": True}, "file or radio"),
        ({"max_packet": 50, "lossless": True}, "radio"),
        ({"frame_length": 0, "lossless": True}, "frame_length"),
        ({"step": 3, "lossless": True}, "window code"),
        ({"metadata": {"a": object()}, "lossless": True}, "metadata"),
        ({"grid": ((1, 2), (1, 3)), "lossless": True}, "2 grids for 1 channel"),
        ({"grid": (1, 2, 3), "lossless": True}, "grid is"),
        ({"grid": (0, 1), "lossless": True}, "positive"),
        ({}, "lossy coding needs"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        edgeae.encode(None, np.arange(10), **options)


def test_big_endian_samples_come_back_native():
    x = np.arange(100, dtype=">i2")
    y = edgeae.decode(None, edgeae.encode(None, x, lossless=True))
    assert y.dtype == np.dtype(np.int16)
    assert np.array_equal(x, y)


def test_a_coarser_step_is_smaller(bundle):
    x = pairs(4000)
    sizes = [len(edgeae.encode(bundle, x, step=step)) for step in (4, 16, 64, 256)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_what_the_code_misses_is_rescued(bundle):
    """Alternating samples are invisible to a mean of pairs."""
    x = np.tile(np.array([1000, -1000], np.int16), 500)
    data = edgeae.encode(bundle, x)
    assert Mode.NEURAL not in modes(data)
    error = edgeae.decode(bundle, data).astype(float) - x
    assert np.abs(error).max() <= np.sqrt(3) * bundle.net.max_rmse[0] + 1


def test_metadata_and_rate_travel(bundle):
    data = edgeae.encode(bundle, walk(10), lossless=True, metadata={"unit": "µV"})
    header = FrameReader(io.BytesIO(data)).header
    assert header.metadata == {"unit": "µV"}
    assert header.rate_hz == 360.0


def test_a_damaged_net_input_is_a_model_error(bundle):
    with pytest.raises(ModelError):
        bundle.decoder().run(np.zeros((1, 5, 5), np.float32))
