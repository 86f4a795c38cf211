"""The cell prior of latents: torch, numpy and C agree to the bit, and damage is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edgeae.native as native
from edgeae.errors import CorruptError, ModelError
from edgeae.models.cells import cell_tables
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.integer import runtime_latent_prior
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.runtime.cell_prior import REACH, CellPrior, cells_of
from edgeae.runtime.latent_prior import (
    decode_latents,
    encode_latents,
    step_condition,
    unpack_latent_prior,
)

COND = step_condition(16)
STEP = torch.full((3,), 16.0)


def symbols() -> np.ndarray:
    y = np.random.default_rng(0).laplace(0, 1.5, (3, 20, 4)).round().astype(np.int32)
    y[0, 3, 0], y[1, 1, 1], y[2, 0, 3], y[2, 1, 3] = 13, -300_000, -14, -REACH
    return y


@pytest.fixture(scope="module")
def pair() -> tuple[LatentPriorNet, CellPrior]:
    torch.manual_seed(0)
    net = LatentPriorNet(4, width=8, offsets=(1, 2, 5), has_cells=True).eval()
    y = torch.from_numpy(symbols()).permute(0, 2, 1).float()
    with torch.no_grad():
        net.net.head.weight.mul_(4)
        with calibrating(net):
            net(y, STEP)
        net.connect()
        set_quantized(net, True)
    prior = runtime_latent_prior(net)
    assert isinstance(prior, CellPrior)
    return net, prior


def test_outputs_and_costs_are_the_coders(pair: tuple[LatentPriorNet, CellPrior]) -> None:
    net, prior = pair
    y = symbols()
    with torch.no_grad():
        theirs = net.indices(torch.from_numpy(y).permute(0, 2, 1).float(), STEP)
    mean, scale = prior.outputs(y, COND)
    assert np.array_equal(theirs[0].permute(0, 2, 1).numpy(), mean)
    assert np.array_equal(theirs[1].permute(0, 2, 1).numpy(), np.clip(scale, net.lowest, 63))
    (payload,) = encode_latents(prior, [y], COND)
    ideal = prior.cost(mean, scale, y.astype(np.int64)).sum()
    assert ideal - 8 <= 8 * len(payload) <= ideal * 1.01 + 16


def test_both_engines_write_and_read_the_same(
    pair: tuple[LatentPriorNet, CellPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prior = pair
    y = symbols()
    frames = [y, y[:1], y[:0], y[:2, :7], y[:, :0]]
    shapes = [frame.shape[:2] for frame in frames]
    fast = encode_latents(prior, frames, COND)
    back = decode_latents(prior, [fast[0]], shapes[:1], COND)
    monkeypatch.setattr(native, "core", None)
    assert encode_latents(prior, frames, COND) == fast
    assert np.array_equal(back[0], y)
    for frame, decoded in zip(frames, decode_latents(prior, fast, shapes, COND), strict=True):
        assert np.array_equal(frame, decoded)


@pytest.mark.parametrize("pure", [False, True])
def test_damage(
    pair: tuple[LatentPriorNet, CellPrior], pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prior = pair
    (payload,) = encode_latents(prior, [symbols()[:1]], COND)
    if pure:
        monkeypatch.setattr(native, "core", None)
    for end in range(len(payload)):
        try:
            decode_latents(prior, [payload[:end]], [(1, 20)], COND)
        except CorruptError:
            continue
    with pytest.raises(CorruptError):
        decode_latents(prior, [payload + bytes(range(1, 12))], [(1, 20)], COND)


def test_arrays_bring_it_back(pair: tuple[LatentPriorNet, CellPrior]) -> None:
    _, prior = pair
    arrays = prior.to_arrays()
    again = unpack_latent_prior(arrays)
    assert encode_latents(again, [symbols()], COND) == encode_latents(prior, [symbols()], COND)
    with pytest.raises(ModelError, match="freq"):
        unpack_latent_prior(arrays | {"cells.freq": arrays["cells.freq"][:-1]})
    bad = arrays["cells.freq"].copy()
    bad[5, 3] += 1
    with pytest.raises(ModelError, match="add up"):
        unpack_latent_prior(arrays | {"cells.freq": bad})


def test_a_sure_symbol_costs_next_to_nothing_and_counts_win() -> None:
    table = cell_tables()
    assert table[0, REACH + 1] > 65_400
    counts = np.zeros(table.shape, np.int64)
    counts[100, 2] = 1_000_000
    assert cell_tables(counts)[100, 2] > 65_000
    assert np.array_equal(cell_tables(counts)[101], table[101])


def test_cells_fold_the_sign_of_the_fraction() -> None:
    mean = np.array([3, -3, 8, -8, 24])
    cell, centre, turn = cells_of(mean, np.zeros(5, np.int64))
    assert centre.tolist() == [0, 0, 1, 0, 2]
    assert turn.tolist() == [1, -1, -1, -1, -1]
    assert cell[0] == cell[1]
    assert cell[2] == cell[3] == cell[4]
