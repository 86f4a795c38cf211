"""The container: header, frames, end, seeking, radio resync, and bytes that mean harm."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.bitstream.crc import crc16, crc32, sample_check
from edgeae.bitstream.file_index import FileIndex
from edgeae.bitstream.frame import Frame, Mode, max_payload_bytes, pack_frame
from edgeae.bitstream.header import Profile, Promise, StreamHeader
from edgeae.bitstream.parser import FrameParser
from edgeae.bitstream.plain import (
    decode_constant,
    decode_raw,
    encode_coarse_constant,
    encode_constant,
    encode_raw,
    pack_exceptions,
    unpack_exceptions,
)
from edgeae.bitstream.reader import FrameReader
from edgeae.bitstream.varint import (
    pack_signed,
    pack_varint,
    unpack_signed,
    unpack_varint,
)
from edgeae.bitstream.writer import FrameWriter, StreamPacker
from edgeae.errors import (
    ConfigError,
    CorruptError,
    EdgeAEError,
    NotAStreamError,
    SignalError,
    StreamError,
    TruncatedError,
    VersionError,
)

FILE = StreamHeader(dtype="int16", channels=2, frame_length=64)
RADIO = StreamHeader(dtype="int16", channels=1, frame_length=64, profile=Profile.RADIO)

headers = st.builds(
    StreamHeader,
    dtype=st.sampled_from(["uint8", "int16", "uint64", "float32", "float64"]),
    channels=st.integers(1, 300),
    frame_length=st.integers(1, 1000),
    image_size=st.none() | st.tuples(st.integers(1, 10), st.integers(1, 10)),
    grids=st.tuples(st.tuples(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))),
    rate_hz=st.none() | st.floats(0, 1e9),
    promise=st.sampled_from([Promise.LOSSLESS, Promise.LOSSY]),
    step=st.integers(0, 1 << 20),
    fingerprint=st.just(b"") | st.binary(min_size=8, max_size=8),
    exact=st.booleans(),
    profile=st.sampled_from(Profile),
    metadata=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3),
)


def frames_of(header: StreamHeader, n: int, seed: int = 0, short_every: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        short = short_every and i % short_every == short_every - 1
        n_items = int(rng.integers(1, header.frame_length)) if short else header.frame_length
        mode = Mode(int(rng.integers(1, 6)))
        frames.append(
            Frame(
                mode=mode,
                n_items=n_items,
                payload=rng.bytes(int(rng.integers(0, 40))),
                check=None if header.profile is Profile.RADIO else int(rng.integers(1 << 16)),
                exceptions=rng.bytes(5) if i % 3 == 1 else b"",
                variant=int(rng.integers(4)) if mode >= Mode.NEURAL_RESIDUAL else 0,
            )
        )
    return frames


def written(header: StreamHeader, frames: list[Frame]) -> bytes:
    file = io.BytesIO()
    with FrameWriter(file, header) as out:
        for frame in frames:
            out.write(frame)
    return file.getvalue()


def read_all(data: bytes) -> tuple[list[Frame], Exception | None]:
    frames: list[Frame] = []
    try:
        for frame in FrameReader(io.BytesIO(data)):
            frames.append(frame)
    except EdgeAEError as error:
        return frames, error
    return frames, None


# --- varints, checksums, header ---------------------------------------------------------------


@given(st.integers(0, 2**63 - 1))
def test_varint_round_trip(value: int) -> None:
    data = pack_varint(value)
    assert unpack_varint(data, 0) == (value, len(data))
    signed = value // 2 * (-1) ** (value & 1)
    assert unpack_signed(pack_signed(signed), 0)[0] == signed


def test_varint_rejects_long_spellings_and_short_input() -> None:
    for bad in (b"\x80\x00", b"\xff" * 9, b"\xff" * 10):
        with pytest.raises(CorruptError):
            unpack_varint(bad, 0)
    with pytest.raises(TruncatedError):
        unpack_varint(b"\x80", 0)
    for value in (-1, 2**63):
        with pytest.raises(ValueError, match="varint"):
            pack_varint(value)


def test_checksums_are_the_published_ones() -> None:
    assert crc16(b"123456789") == 0x29B1
    assert crc32(b"123456789") == 0xCBF43926


def test_sample_check_masks_exceptions() -> None:
    x = np.arange(100_000, dtype=np.int32).reshape(-1, 2)
    y = x.copy()
    y.flat[[3, 99_999]] = -7
    assert sample_check(x) == crc16(x.astype("<i4").tobytes()) != sample_check(y)
    where = np.array([3, 99_999])
    assert sample_check(x, where) == sample_check(y, where)


@given(headers)
def test_header_round_trip(header: StreamHeader) -> None:
    data = header.pack()
    assert StreamHeader.unpack(data + b"more") == (header, len(data))


def test_header_is_small() -> None:
    header = StreamHeader(
        dtype="float32",
        channels=3,
        frame_length=65536,
        grids=((981, 409600),),
        rate_hz=360.0,
        promise=Promise.MAX_ERROR,
        deltas=(11,),
        max_error=0.0125,
        fingerprint=b"12345678",
    )
    assert len(header.pack()) <= 46
    plain = StreamHeader(
        dtype="int16",
        channels=1,
        frame_length=65536,
        rate_hz=360.0,
        promise=Promise.MAX_ERROR,
        deltas=(11,),
        max_error=5.0,
        fingerprint=b"12345678",
    )
    assert len(plain.pack()) <= 40


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "complex64"},
        {"channels": 0},
        {"frame_length": 0},
        {"frame_length": 1 << 25},
        {"image_size": (0, 3)},
        {"grids": ((0, 1),)},
        {"grids": ((1, 2**63),)},
        {"grids": ((1, 2, True),)},
        {"dtype": "float64", "grids": ((1, 2, False),)},
        {"deltas": (3,)},
        {"promise": "max_error", "max_error": 1.0, "deltas": (2,)},
        {"promise": "max_error"},
        {"max_error": 1.0},
        {"rate_hz": float("nan")},
        {"fingerprint": b"short"},
        {"metadata": {"a": object()}},
        {"metadata": {"a": "x" * 70_000}},
        {"step": -1},
    ],
)
def test_header_checks_its_fields(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"dtype": "int16", "channels": 2, "frame_length": 1024}
    with pytest.raises(ConfigError):
        StreamHeader(**{**fields, **change})  # type: ignore[arg-type]


def test_channels_may_have_grids_of_their_own() -> None:
    grids = ((1, 2), (981, 409600), (1, 2))
    header = StreamHeader(dtype="float32", channels=3, frame_length=64, grids=grids)
    assert header.deltas == (1, 1, 1)
    assert StreamHeader.unpack(header.pack()) == (header, len(header.pack()))
    same = StreamHeader(dtype="float32", channels=2, frame_length=64, grids=((1, 2), (1, 2)))
    assert same == StreamHeader(dtype="float32", channels=2, frame_length=64, grids=((1, 2),))
    for wrong in (grids[:2], (), ((1, 2), (0, 1), (1, 1))):
        with pytest.raises(ConfigError):
            StreamHeader(dtype="float32", channels=3, frame_length=64, grids=wrong)
    mixed = StreamHeader(
        dtype="float32",
        channels=2,
        frame_length=64,
        promise=Promise.MAX_ERROR,
        max_error=0.5,
        deltas=(3, 11),
    )
    assert mixed.grids == ((1, 1), (1, 1))
    assert StreamHeader.unpack(mixed.pack()) == (mixed, len(mixed.pack()))
    most = replace(
        mixed,
        channels=1 << 16,
        grids=tuple((2**63 - 1 - c, 2**63 - 1) for c in range(1 << 16)),
        deltas=tuple(2**30 - 1 - 2 * c for c in range(1 << 16)),
        metadata={"x": "y" * 65_000},
    )
    assert StreamHeader.unpack(most.pack()) == (most, len(most.pack()))
    for specs in (((1, 1000, True),), ((1, 2), (1, 1000, True), (1, 2))):
        single = StreamHeader(dtype="float64", channels=3, frame_length=64, grids=specs)
        assert StreamHeader.unpack(single.pack()) == (single, len(single.pack()))
        plain = replace(single, grids=tuple(spec[:2] for spec in specs))
        assert len(single.pack()) == len(plain.pack()) + 1
        assert single.checksum != plain.checksum
    # one grid may be spelled in one way only
    data = bytearray(FILE.pack()[:-4])
    data[5] |= 0x40
    with pytest.raises(CorruptError):
        StreamHeader.unpack(bytes(data) + crc32(data).to_bytes(4, "little"))


def test_header_names_what_is_wrong() -> None:
    data = FILE.pack()
    with pytest.raises(NotAStreamError):
        StreamHeader.unpack(b"RIFF" + data[4:])
    with pytest.raises(VersionError):
        StreamHeader.unpack(data[:4] + b"\x02" + data[5:])
    reserved = data[:5] + b"\x80" + data[6:-4]
    with pytest.raises(VersionError):
        StreamHeader.unpack(reserved + crc32(reserved).to_bytes(4, "little"))
    for cut in range(len(data)):
        with pytest.raises(TruncatedError):
            StreamHeader.unpack(data[:cut])


MAX_INDEX = (1 << 30) - 1

# --- raw, constant, exceptions ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_raw_round_trip(dtype: str) -> None:
    x = np.frombuffer(np.random.default_rng(0).bytes(64), dtype)
    assert decode_raw(encode_raw(x), dtype, x.size).tobytes() == x.tobytes()
    assert encode_raw(x.astype(x.dtype.newbyteorder(">"))) == encode_raw(x)
    with pytest.raises(CorruptError):
        decode_raw(encode_raw(x), dtype, x.size + 1)


def test_constant_keeps_the_bound() -> None:
    x = np.array([[5, -9], [7, -9], [6, -8]], np.int32)
    assert encode_constant(x, 1) is None
    payload = encode_constant(x, 3)
    assert payload is not None
    assert np.abs(decode_constant(payload, 3, 2) - x).max() <= 1
    for bad in (payload[:-1], payload + b"\0", b"\xff\xff\xff\xff\xff\x01\x00"):
        with pytest.raises(CorruptError):
            decode_constant(bad, 3, 2)


@given(
    low=st.lists(st.integers(-MAX_INDEX, MAX_INDEX), min_size=1, max_size=3),
    reach=st.integers(0, 1 << 20),
    share=st.floats(0, 1),
)
def test_coarse_constants_keep_the_bound(low: list[int], reach: int, share: float) -> None:
    delta, width = 2 * reach + 1, int(2 * reach * share)
    x = np.minimum(np.array([low, [v + width for v in low]]), MAX_INDEX).astype(np.int32)
    payload = encode_coarse_constant(x, delta)
    if width <= reach and np.abs(x).max() < MAX_INDEX - delta:
        assert payload is not None
    if payload is not None:
        found = decode_constant(payload, 2, len(low), [delta] * len(low))
        assert np.abs(found.astype(np.int64) - x).max() <= reach
        exact = encode_constant(x, delta)
        assert exact is not None
        assert len(payload) <= len(exact) + len(low)


def test_a_coarse_constant_beyond_the_indices_is_corrupt() -> None:
    with pytest.raises(CorruptError):
        decode_constant(pack_varint(1 << 30), 3, 1, [101])


@given(st.data())
def test_exceptions_round_trip(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    dtype = data.draw(st.sampled_from(["float32", "float64", "int16"]))
    where = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if not len(where):
        return
    raw = data.draw(st.lists(st.integers(0, 2), min_size=len(where), max_size=len(where)))
    samples = np.array(raw, np.int64).astype(dtype)
    packed = pack_exceptions(where, samples)
    positions, got = unpack_exceptions(packed, dtype, n)
    assert np.array_equal(positions, where)
    assert got.tobytes() == samples.tobytes()


def test_a_gap_of_nan_takes_few_bytes() -> None:
    where = np.arange(1000, 60_000)
    assert len(pack_exceptions(where, np.full(len(where), np.nan, np.float64))) < 20


@given(st.binary(max_size=40))
def test_exceptions_from_any_bytes(data: bytes) -> None:
    try:
        positions, samples = unpack_exceptions(data, "float32", 100)
    except CorruptError:
        return
    assert len(positions) == len(samples) <= 100
    assert (np.diff(positions) > 0).all()
    assert positions[-1] < 100


# --- file profile -----------------------------------------------------------------------------


def test_file_round_trip_and_starts() -> None:
    frames = frames_of(FILE, 40, short_every=7)
    got, error = read_all(written(FILE, frames))
    assert error is None
    assert got == frames
    assert [f.start for f in got] == np.cumsum([0] + [f.n_items for f in frames])[:-1].tolist()


def test_empty_stream() -> None:
    data = written(FILE, [])
    assert read_all(data) == ([], None)
    assert len(data) - len(FILE.pack()) <= 20


def test_file_frame_overhead_is_at_most_ten_bytes() -> None:
    header = StreamHeader(dtype="int16", channels=1, frame_length=65536)
    frame = Frame(mode=Mode.CLASSICAL, n_items=65536, payload=bytes(20_000), check=0)
    assert len(pack_frame(frame, header, 0, header.checksum)) <= 20_000 + 10


def test_skippable_frames_are_stepped_over() -> None:
    frames = frames_of(FILE, 3)
    file = io.BytesIO()
    with FrameWriter(file, FILE) as out:
        out.write_skippable(b"hello", 3)
        out.write(frames[0])
        out.write_skippable(b"", 15)
        out.write(frames[1])
        out.write(frames[2])
    reader = FrameReader(io.BytesIO(file.getvalue()))
    assert list(reader) == frames
    reader.seek_item(130)
    assert list(reader) == frames[2:]


def test_a_closed_or_failed_writer() -> None:
    file = io.BytesIO()
    writer = FrameWriter(file, FILE)
    writer.close()
    writer.close()
    with pytest.raises(ConfigError):
        writer.write(frames_of(FILE, 1)[0])

    def fail() -> None:
        with FrameWriter(file := io.BytesIO(), FILE) as out:
            out.write(frames_of(FILE, 1)[0])
            files.append(file)
            raise KeyError

    files: list[io.BytesIO] = []
    with pytest.raises(KeyError):
        fail()
    got, error = read_all(files[0].getvalue())
    assert len(got) == 1
    assert isinstance(error, TruncatedError)


@pytest.mark.parametrize(
    "change",
    [
        {"n_items": 0},
        {"n_items": 65},
        {"variant": 4},
        {"check": None},
        {"payload": bytes(10_000)},
    ],
)
def test_the_writer_keeps_the_caps(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"mode": Mode.RAW, "n_items": 64, "payload": b"", "check": 0}
    with pytest.raises(ConfigError):
        FrameWriter(io.BytesIO(), FILE).write(Frame(**{**fields, **change}))  # type: ignore[arg-type]


def test_cutting_a_file_at_every_length_yields_the_frames_before() -> None:
    frames = frames_of(FILE, 6, short_every=4)
    data = written(FILE, frames)
    packer = StreamPacker(FILE)
    ends = np.cumsum([len(packer.begin())] + [len(packer.frame(f)) for f in frames])
    for cut in range(len(data)):
        got, error = read_all(data[:cut])
        assert isinstance(error, TruncatedError), cut
        assert got == frames[: max(0, int((ends <= cut).sum()) - 1)]
        if cut >= ends[0]:
            assert f"frame {len(got)} at byte" in str(error)


def test_flipping_any_bit_of_a_file_is_noticed() -> None:
    frames = frames_of(FILE, 4)
    data = bytearray(written(FILE, frames))
    for i in range(len(data)):
        for bit in range(8):
            data[i] ^= 1 << bit
            got, error = read_all(bytes(data))
            assert isinstance(error, StreamError), (i, bit)
            assert got == frames[: len(got)]
            data[i] ^= 1 << bit


def test_bytes_after_the_end_are_an_error() -> None:
    frames = frames_of(FILE, 2)
    got, error = read_all(written(FILE, frames) + b"\0")
    assert got == frames
    assert isinstance(error, CorruptError)


def test_a_lost_or_doubled_frame_is_noticed() -> None:
    frames = frames_of(FILE, 3)
    packer = StreamPacker(FILE)
    parts = [packer.begin(), *(packer.frame(f) for f in frames), packer.end()]
    for order in ([0, 1, 3, 4], [0, 1, 2, 2, 3, 4]):
        assert isinstance(read_all(b"".join(parts[i] for i in order))[1], CorruptError)


def test_a_frame_of_another_stream_is_noticed() -> None:
    frames = frames_of(FILE, 2)
    other = StreamHeader(dtype="int16", channels=2, frame_length=64, grids=((1, 2),))
    data = written(FILE, frames)
    got, error = read_all(other.pack() + data[len(FILE.pack()) :])
    assert not got
    assert isinstance(error, CorruptError)


def test_reserved_modes_and_control_frames_need_a_newer_reader() -> None:
    seed = FILE.checksum
    for body in (b"\x06\x00\x00\x00", b"\xc0\x00"):
        frame = body + crc32(body, crc32(seed)).to_bytes(4, "little")
        with pytest.raises(VersionError, match="frame 0 at byte"):
            FrameParser().feed(FILE.pack() + frame)


def test_huge_announcements_do_not_allocate() -> None:
    tracemalloc.start()
    for bomb in (
        b"\x0a" + pack_varint(2**31) + pack_varint(1),
        b"\x02" + pack_varint(2**40),
        b"\x80" + pack_varint(2**40),
    ):
        with pytest.raises(CorruptError):
            FrameParser(FILE).feed(bomb)
    fields = b"\x03" + pack_varint(1) + pack_varint(2**31) + b"\x01\x01\x00\x01\x00"
    head = b"\x89EAE\x01\x00" + pack_varint(len(fields)) + fields
    with pytest.raises(CorruptError):
        FrameParser().feed(head + crc32(head).to_bytes(4, "little"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# --- pieces and seeking -----------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), max_size=30), st.sampled_from([FILE, RADIO]))
def test_pieces_do_not_matter(sizes: list[int], header: StreamHeader) -> None:
    frames = frames_of(header, 8, short_every=3)
    data = written(header, frames)
    parser = FrameParser()
    got: list[Frame] = []
    pos = 0
    for size in [*sizes, len(data)]:
        got += parser.feed(data[pos : pos + size])
        pos += size
    got += parser.close()
    assert got == frames


def test_frames_before_damage_come_first() -> None:
    frames = frames_of(FILE, 3)
    data = bytearray(written(FILE, frames))
    data[-20] ^= 255  # in the checksum of the last frame
    parser = FrameParser()
    assert parser.feed(data) == frames[:2]
    with pytest.raises(CorruptError):
        parser.feed(b"")
    with pytest.raises(CorruptError):
        parser.close()


def test_seek_finds_every_item() -> None:
    frames = frames_of(FILE, 70, short_every=5)
    reader = FrameReader(io.BytesIO(written(FILE, frames)))
    index = reader.read_index()
    assert index is not None
    assert len(index.entries) == 5
    starts = np.cumsum([0] + [f.n_items for f in frames])
    for item in range(0, int(starts[-1]), 13):
        reader.seek_item(item)
        k = int(np.searchsorted(starts, item, "right")) - 1
        got = list(reader)
        assert got == frames[k:]
        assert got[0].start == starts[k]
    reader.seek_item(int(starts[-1]))
    assert not list(reader)
    with pytest.raises(SignalError):
        reader.seek_item(-1)


def test_seek_works_without_the_end_and_inside_a_larger_file() -> None:
    frames = frames_of(FILE, 40)
    data = written(FILE, frames)
    reader = FrameReader(io.BytesIO(data[:-5]))
    reader.seek_item(2000)
    got = []
    with pytest.raises(TruncatedError):
        got.extend(reader)
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    reader = FrameReader(file)
    reader.seek_item(64 * 33)
    assert list(reader) == frames[33:]


def test_a_pipe_cannot_be_searched(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    frames = frames_of(FILE, 3)
    reader = FrameReader(Pipe(written(FILE, frames)))
    with pytest.raises(SignalError):
        reader.seek_item(0)
    assert list(reader) == frames


def test_the_index_stays_small() -> None:
    header = StreamHeader(dtype="uint8", channels=1, frame_length=1)
    packer = StreamPacker(header)
    frame = Frame(mode=Mode.CONSTANT, n_items=1, payload=b"\0", check=0)
    data = b"".join([packer.begin(), *(packer.frame(frame) for _ in range(70_000)), packer.end()])
    reader = FrameReader(io.BytesIO(data))
    index = reader.read_index()
    assert index is not None
    assert index.stride == 32
    assert len(index.entries) <= 4097
    assert index.entries[1:3] == [(32, 32 * 9), (64, 64 * 9)]
    assert index.places.itemsize * len(index.places) < 70_000
    reader.seek_item(69_990)
    assert [f.start for f in reader] == list(range(69_990, 70_000))


def test_an_index_that_points_nowhere_is_refused() -> None:
    body = b"".join(pack_varint(value) for value in (1, 1, 16, 3, *[2**63 - 1, 0] * 3))
    with pytest.raises(CorruptError, match="beyond"):
        FileIndex.unpack(body)


# --- radio profile ----------------------------------------------------------------------------


def radio_parts(frames: list[Frame], header: StreamHeader = RADIO) -> list[bytes]:
    packer = StreamPacker(header)
    return [packer.frame(f) for f in frames]


def test_radio_head_is_four_bytes() -> None:
    frame = Frame(mode=Mode.NEURAL, n_items=64, payload=bytes(100))
    assert len(radio_parts([frame])[0]) == 4 + 100 + 2


def test_radio_without_its_header_in_band() -> None:
    frames = frames_of(RADIO, 10, short_every=3)
    parser = FrameParser(RADIO)
    got = parser.feed(b"".join(radio_parts(frames)))
    assert got + parser.close() == frames
    assert parser.n_lost_items == parser.n_skipped_bytes == 0


def test_a_lost_radio_frame_is_reported_exactly() -> None:
    frames = frames_of(RADIO, 30, short_every=4)
    starts = np.cumsum([0] + [f.n_items for f in frames])
    parts = radio_parts(frames)
    for lost in range(29):
        parser = FrameParser(RADIO)
        got = parser.feed(b"".join(parts[:lost] + parts[lost + 1 :]))
        assert got == frames[:lost] + frames[lost + 1 :]
        assert got[lost].lost_items == frames[lost].n_items == parser.n_lost_items
        assert got[lost].start == starts[lost + 1]


def test_radio_steps_over_noise() -> None:
    frames = frames_of(RADIO, 20)
    parts = radio_parts(frames)
    rng = np.random.default_rng(1)
    data = b"".join(part + rng.bytes(int(rng.integers(0, 30))) for part in parts)
    parser = FrameParser(RADIO)
    got = parser.feed(data) + parser.close()
    assert got == frames


def test_radio_survives_flipped_bytes() -> None:
    frames = frames_of(RADIO, 6)
    parts = radio_parts(frames)
    data = bytearray(b"".join(parts))
    for i in range(len(data)):
        data[i] ^= 0x55
        parser = FrameParser(RADIO)
        got = parser.feed(data) + parser.close()
        hit = int(np.searchsorted(np.cumsum([len(p) for p in parts]), i, "right"))
        assert got == frames[:hit] + frames[hit + 1 :]
        data[i] ^= 0x55


def test_radio_joins_late_at_a_repeated_header() -> None:
    frames = frames_of(RADIO, 8)
    packer = StreamPacker(RADIO)
    parts = [packer.begin()]
    for frame in frames:
        parts += [packer.begin(), packer.frame(frame)]
    parser = FrameParser()
    assert parser.feed(b"".join(parts)) + parser.close() == frames
    assert parser.n_stale_frames == 0
    late = FrameParser()
    got = late.feed(b"".join(parts[7:]))
    assert got == frames[3:]
    assert got[0].start == 3 * 64 == got[0].lost_items


def test_radio_drops_duplicates_and_late_frames() -> None:
    frames = frames_of(RADIO, 6)
    parts = radio_parts(frames)
    parser = FrameParser(RADIO)
    assert parser.feed(b"".join(parts[i] for i in (0, 1, 1, 3, 2, 4))) == [
        frames[i] for i in (0, 1, 3, 4)
    ]
    assert parser.n_stale_frames == 2


def test_radio_positions_wrap() -> None:
    header = StreamHeader(dtype="int16", channels=1, frame_length=8192, profile=Profile.RADIO)
    frames = [Frame(mode=Mode.CONSTANT, n_items=8192, payload=b"\0")] * 400
    parts = radio_parts(frames, header)
    parser = FrameParser(header)
    got = parser.feed(b"".join(parts[:100] + parts[180:]))
    assert got[-1].start == 399 * 8192
    assert parser.n_lost_items == 80 * 8192


def test_radio_with_another_header_finds_nothing_and_says_so() -> None:
    data = b"".join(radio_parts(frames_of(RADIO, 5)))
    other = StreamHeader(
        dtype="int16", channels=1, frame_length=64, profile=Profile.RADIO, fingerprint=b"12345678"
    )
    parser = FrameParser(other)
    assert not parser.feed(data)
    with pytest.raises(CorruptError, match="header"):
        parser.close()
    parser = FrameParser(RADIO)
    with pytest.raises(CorruptError, match="another header"):
        parser.feed(other.pack())


def test_a_packet_end_releases_frames_behind_a_broken_length() -> None:
    frames = [Frame(mode=Mode.RAW, n_items=64, payload=bytes(100))] * 3
    parts = radio_parts(frames)
    broken = bytearray(parts[0])
    broken[3] ^= 0x80
    parser = FrameParser(RADIO)
    got = parser.feed(bytes(broken)) + parser.end_packet()
    assert not got
    assert parser.feed(parts[1]) == frames[1:2]


def test_radio_has_no_end_and_no_skippable_frames() -> None:
    packer = StreamPacker(RADIO)
    assert packer.end() == b""
    with pytest.raises(ConfigError):
        packer.skippable(b"")
    assert max_payload_bytes(RADIO, 64) == 320
    with pytest.raises(SignalError):
        FrameReader(io.BytesIO(written(RADIO, []))).seek_item(0)


# --- any bytes --------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([None, FILE, RADIO]), st.booleans())
def test_any_bytes_end_in_an_error_or_in_frames(
    data: bytes, header: StreamHeader | None, lead: bool
) -> None:
    parser = FrameParser(header)
    if header is None and lead:
        data = FILE.pack() + data
    try:
        for frame in parser.feed(data) + parser.close():
            assert frame.n_items >= 1
    except StreamError:
        pass
