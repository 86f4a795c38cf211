"""The pixel prior: torch, numpy and C agree to the bit, bounds hold, damage is found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeae
import edgeae.native as native
from edgeae.errors import CorruptError, ModelError
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.integer import runtime_prior
from edgeae.models.pixel_prior import PixelPriorNet, PixelPriorSpec
from edgeae.runtime import pixel_coding
from edgeae.runtime.any_prior import decode_samples, encode_samples, unpack_prior
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.runtime.pixel_rules import PixelRaster, level_bins
from edgeae.tasks.plan import lossy_deltas

LOW = 3
MODELS = Path(__file__).parents[1] / "export" / "models"


def make(
    height: int, width: int, channels: int, levels: int, ground: int
) -> tuple[PixelPriorNet, PixelPrior]:
    """A net of chance on its grids, and its runtime twin."""
    torch.manual_seed(height)
    radii = (2, 1, 0)
    raster = PixelRaster(height=height, width=width, channels=channels, margin=max(radii))
    spec = PixelPriorSpec(
        raster=raster, low=LOW, levels=levels, ground=ground, hidden=8, radii=radii
    )
    net = PixelPriorNet(spec).eval()
    with torch.no_grad():
        net.head.weight.mul_(20)
        net.head.bias.normal_(0, 0.2)
        x = torch.randint(0, levels, (4, channels, height, width))
        with calibrating(net):
            net.context(x, torch.tensor([1, 1, 3, 3]))
        net.connect()
        set_quantized(net, True)
    prior = runtime_prior(net)
    assert isinstance(prior, PixelPrior)
    return net, prior


CASES = [(5, 6, 1, 256, 0), (4, 5, 3, 17, 9), (7, 7, 2, 40, 39), (6, 4, 1, 2, 1)]


def images(case: tuple[int, int, int, int, int], n: int = 3) -> torch.Tensor:
    height, width, channels, levels, _ = case
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, levels, (n, channels, height, width), generator=generator)


def frames_of(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).flatten(1, 2).numpy().astype(np.int32) + LOW


@pytest.fixture(params=["c", "numpy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(native, "core", None)
    elif native.core is None:
        pytest.skip("the extension is not built")
    name: str = request.param
    return name


@pytest.mark.parametrize("case", CASES)
def test_torch_and_numpy_give_the_same_logits(case: tuple[int, int, int, int, int]) -> None:
    net, prior = make(*case)
    x = images(case)
    step = torch.tensor([3, 3, 3])
    with torch.no_grad():
        theirs = net.logits(net.context(x, step).flatten(0, 1)) * 16
    levels = (frames_of(x) - LOW).astype(np.uint8)
    ours = pixel_coding._logits(prior.rules, levels, 3)
    assert np.array_equal(theirs.numpy(), ours)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [1, 3, 11, 101])
def test_round_trip_within_the_bound(
    case: tuple[int, int, int, int, int], step: int, engine: str
) -> None:
    net, prior = make(*case)
    frames = [frames_of(images(case)), frames_of(images(case, 1))]
    coded = [item for item in encode_samples(prior, frames, step) if item is not None]
    payloads = [payload for payload, _ in coded]
    shapes = [frame.shape[:2] for frame in frames]
    decoded = decode_samples(prior, payloads, shapes, step)
    for frame, (_, recon), back in zip(frames, coded, decoded, strict=True):
        assert np.array_equal(recon, back)
        assert np.abs(back - frame).max() <= step // 2
    with torch.no_grad():
        bits = float(net.bits(images(case), torch.tensor([step] * 3)).sum())
    assert 8 * len(payloads[0]) <= bits * 1.02 + 16


@pytest.mark.parametrize("case", CASES)
def test_both_engines_write_the_same_bytes(
    case: tuple[int, int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.core is None:
        pytest.skip("the extension is not built")
    _, prior = make(*case)
    frames = [frames_of(images(case))]
    fast = [encode_samples(prior, frames, step)[0] for step in (1, 3, 7)]
    monkeypatch.setattr(native, "core", None)
    slow = [encode_samples(prior, frames, step)[0] for step in (1, 3, 7)]
    assert [f and f[0] for f in fast] == [s and s[0] for s in slow]


def test_what_is_no_level_or_too_long_is_left_to_others(engine: str) -> None:
    _, prior = make(*CASES[1])
    frame = frames_of(images(CASES[1]))
    beyond = frame.copy()
    beyond[0, 0, 0] = LOW + 17
    assert encode_samples(prior, [beyond, frame - 4], 1) == [None, None]
    assert encode_samples(prior, [frame], (1, 1, 3)) == [None]
    (found,) = encode_samples(prior, [frame], 1)
    assert found is not None
    limits = [len(found[0]), len(found[0]) - 1]
    kept = encode_samples(prior, [frame, frame], 1, None, limits)
    assert kept[0] is not None
    assert kept[1] is None


def test_damaged_bytes_are_found_or_decode_to_levels(engine: str) -> None:
    _, prior = make(*CASES[0])
    frame = frames_of(images(CASES[0]))
    (found,) = encode_samples(prior, [frame], 1)
    assert found is not None
    shape = [frame.shape[:2]]
    rng = np.random.default_rng(0)
    for trial in range(40):
        payload = bytearray(found[0])
        if trial % 2:
            payload[rng.integers(len(payload))] ^= 1 << rng.integers(8)
        else:
            payload = payload[: rng.integers(len(payload))]
        try:
            (back,) = decode_samples(prior, [bytes(payload)], shape, 1)
        except CorruptError:
            continue
        assert back.min() >= LOW
        assert back.max() < LOW + 256
    with pytest.raises(CorruptError):
        decode_samples(prior, [found[0] + bytes(range(1, 12))], shape, 1)
    with pytest.raises(CorruptError, match="does not fit"):
        decode_samples(prior, [found[0]], [(3, 29)], 1)


def test_arrays_bring_the_prior_back_and_are_checked() -> None:
    _, prior = make(*CASES[0])
    arrays = prior.to_arrays()
    frame = frames_of(images(CASES[0]))
    assert (
        encode_samples(unpack_prior(arrays), [frame], 1)[0][0]
        == (encode_samples(prior, [frame], 1)[0][0])
    )
    for name in arrays:
        if name != "net.feature_peak":
            with pytest.raises(ModelError):
                unpack_prior({k: v for k, v in arrays.items() if k != name})
    with pytest.raises(ModelError, match="table"):
        unpack_prior(arrays | {"pixel.table": arrays["pixel.table"][:-1]})
    with pytest.raises(ModelError, match="zeros"):
        unpack_prior(arrays | {"pixel.flag": arrays["pixel.flag"] * np.uint16(0)})
    with pytest.raises(ModelError, match="margin"):
        dataclasses.replace(prior.raster, margin=9)


@pytest.mark.parametrize("step", [1, 3, 41, 999])
@pytest.mark.parametrize("ground", [0, 7, 255])
def test_bins_keep_the_bound_and_the_ground(step: int, ground: int) -> None:
    bins, back = level_bins(step, 256, ground)
    assert np.abs(back - np.arange(256)).max() <= step // 2
    assert back[ground] == ground
    assert bins[0] == 0
    assert set(np.diff(bins)) <= {0, 1}


def test_lossy_streams_take_the_prior_that_gives_more_for_a_bit() -> None:
    """With a pixel prior every lossy frame is coded by what costs least, and steps fit the span."""
    model = edgeae.load(MODELS / "mnist")
    y, x = np.indices((28, 28))
    rings = [255.0 / (1 + np.exp(2 * (np.hypot(y - 14, x - c) - 6))) for c in (11, 13, 15, 17)]
    pictures = np.stack(rings).round().astype(np.uint8)
    sizes, errors = [], []
    for step in (12, 28, 46):
        data = edgeae.encode(model, pictures, step=step, profile="radio", frame_length=1)
        back = edgeae.decode(model, data)
        assert back.shape == pictures.shape
        sizes.append(len(data))
        errors.append(float(np.mean((back.astype(float) - pictures) ** 2)))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    deltas = {lossy_deltas(model, step) for step in (5, 12, 28, 46)}
    assert len(deltas) > 2
    for (delta,) in deltas:
        assert delta % 2 == 1
        assert abs(255 / delta - round(255 / delta)) < 0.34
