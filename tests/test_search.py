"""Trying other symbols lowers what training minimised, and a decoder never knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeae
from edgeae.errors import ConfigError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import encode_latents, latent_bits, step_condition
from edgeae.runtime.transform import analyse
from edgeae.tasks.search import _Trial, search_symbols, worth_of_a_bit

DIGITS = Path(__file__).parents[1] / "export" / "models" / "digits"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return edgeae.load(DIGITS)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.indices((8, 8))
    centre = rng.uniform(2, 6, (4, 2, 1, 1))
    blobs = 16 * np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 5)
    return blobs.round().astype(np.uint8)


@pytest.mark.parametrize("name", ["digits", "power"])
def test_latent_bits_are_what_the_coder_writes(name: str) -> None:
    model = edgeae.load(DIGITS.parent / name)
    assert model.net is not None
    assert model.latent_prior is not None
    shape = (1, 60, model.net.latent_channels)
    for size, step in ((0.4, 40), (1.5, 16), (6.0, 8)):
        y = np.random.default_rng(step).laplace(0, size, shape).round().astype(np.int32)
        cond = step_condition(step)
        ideal = latent_bits(model.latent_prior, y, cond).sum()
        (payload,) = encode_latents(model.latent_prior, [y], cond)
        assert abs(8 * len(payload) - ideal) < 10 + 0.02 * ideal


def test_every_round_lowers_the_cost(bundle: Bundle, images: np.ndarray) -> None:
    x = images.reshape(4, 64, 1).astype(np.int32)
    (latents,) = analyse(bundle, [x])
    worth = worth_of_a_bit(bundle, 16)
    assert worth is not None
    costs = []
    for rounds in (0, 1, 4):
        symbols = search_symbols(bundle, x, latents, 16, rounds)
        costs.append(
            [_Trial(bundle, x[i], 16, worth).costs(symbols[i : i + 1])[0] for i in range(4)]
        )
    found = np.array(costs)
    assert np.all(np.diff(found, axis=0) <= 0)
    assert found[1].sum() < found[0].sum()


def test_streams_decode_as_ever(bundle: Bundle, images: np.ndarray) -> None:
    plain = edgeae.encode(bundle, images, profile="radio")
    tried = edgeae.encode(bundle, images, profile="radio", effort=3)
    assert tried != plain
    assert edgeae.decode(bundle, tried).shape == images.shape
    with pytest.raises(ConfigError, match="effort"):
        edgeae.encode(bundle, images, effort=17)
