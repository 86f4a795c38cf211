"""Adaptive priors: what they are for, how loud a signal they know, and how rules are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_nets import random_net

from edgeae.bitstream import logistic_shape
from edgeae.errors import ConfigError, ModelError
from edgeae.quantize.adaptive import fit_adaptive
from edgeae.runtime.adaptive import AdaptiveRules
from edgeae.runtime.causal import CausalLayer, CausalNet
from edgeae.runtime.mixture import MixtureNet
from edgeae.runtime.sample_prior import SamplePrior, decode_samples, encode_samples
from edgeae.train.phases import Signal
from edgeae.train.recipe import Recipe, SamplePriorRecipe, recipe_from_dict

Frame = np.ndarray


def plain_prior(scale: int, channels: int = 1) -> SamplePrior:
    """A prior whose net says: the next sample is the last one, give or take ``scale``."""
    head = CausalLayer(
        offsets=(1,),
        weight=np.zeros((2 * channels, 1, channels), np.int8),
        bias=np.array([0] * channels + [scale] * channels, np.int32),
        shift=np.zeros(2 * channels, np.int32),
        bits=0,
    )
    net = CausalNet(n_inputs=channels, past=np.ones(channels, bool), layers=(), head=head)
    return SamplePrior(net=net, shape=logistic_shape(), has_cond=False)


def ringing(seed: int, n: int, channels: int = 1) -> Frame:
    """Noise through a resonance: the next sample follows from the last two."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, channels))
    drive = rng.normal(0, 3, (n, channels))
    for t in range(2, n):
        x[t] = 1.9 * x[t - 1] - 0.95 * x[t - 2] + drive[t]
    return np.rint(x).astype(np.int32)[None]


def size(prior: SamplePrior, x: Frame, delta: int = 1) -> int:
    (item,) = encode_samples(prior, [x], delta)
    assert item is not None
    (back,) = decode_samples(prior, [item[0]], [x.shape[:2]], delta)
    assert np.abs(back - x).max() <= delta // 2
    return len(item[0])


def test_a_filter_learns_what_the_net_does_not_know() -> None:
    x = ringing(0, 1024)
    prior = plain_prior(38)
    still = size(replace(prior, adaptive=AdaptiveRules(taps=0)), x)
    assert size(replace(prior, adaptive=AdaptiveRules()), x) < 0.85 * still


def test_a_filter_reads_the_channels_coded_before_it() -> None:
    walk = np.cumsum(np.random.default_rng(1).normal(0, 10, 1024))
    one = np.rint(walk).astype(np.int32).reshape(1, -1, 1)
    both = np.concatenate([one, one + 7], axis=2)
    prior = replace(plain_prior(34, 2), adaptive=AdaptiveRules(cross=1, gains=(0.3,)))
    alone = size(replace(plain_prior(34), adaptive=AdaptiveRules(gains=(0.3,))), one)
    assert size(prior, both) < 1.5 * alone


def test_a_mixture_finds_the_scale_that_the_net_misses() -> None:
    x = ringing(2, 2048)
    for scale in (0, 60):
        wrong = plain_prior(scale)
        assert size(replace(wrong, adaptive=AdaptiveRules(taps=0)), x) < 0.9 * size(wrong, x)


def test_a_louder_signal_is_met_an_octave_up() -> None:
    rules = AdaptiveRules(levels=(160,))
    prior = replace(plain_prior(18), adaptive=rules)
    steps = np.tile([10, -10], 512)
    quiet = np.cumsum(steps).astype(np.int32).reshape(1, -1, 1)
    assert prior.octaves(quiet) == 0
    assert [prior.octaves(quiet * k) for k in (2, 3, 4, 5, 64)] == [1, 2, 2, 3, 6]
    assert prior.octaves(np.zeros((1, 1, 1), np.int32)) == 0
    assert prior.octaves(quiet[:, :0]) == 0
    assert plain_prior(18).octaves(quiet * 64) == 0
    loud = 64 * ringing(3, 600)
    assert size(prior.louder(6), loud) < size(prior, loud)
    with pytest.raises(ModelError, match="feature shift"):
        prior.louder(prior.most_octaves + 1).rules  # noqa: B018


def signal_of(channels: int = 1) -> Signal:
    pieces = tuple(
        torch.from_numpy(ringing(seed, 2100, channels)[0].T.astype(np.float32)) for seed in (5, 6)
    )
    return Signal(segments=pieces, spread=torch.ones(channels))


def test_rules_are_chosen_by_the_bytes_of_held_out_frames() -> None:
    prior = plain_prior(38)
    recipe = SamplePriorRecipe(steps=(1, 5), mixture=0)
    found = fit_adaptive(prior, (signal_of(),), recipe, None)
    assert found.adaptive is not None
    assert min(found.adaptive.gains) > 0
    assert found.adaptive.steps == (1, 5)
    assert len(found.adaptive.levels) == 1
    x = ringing(9, 1024)
    assert size(found, x) < 0.8 * size(prior, x)
    again = SamplePrior.from_arrays(found.to_arrays())
    assert encode_samples(again, [x])[0][0] == encode_samples(found, [x])[0][0]  # type: ignore[index]
    assert fit_adaptive(prior, (signal_of(),), replace(recipe, adaptive=False), None) is prior
    told = fit_adaptive(prior, (signal_of(),), replace(recipe, adaptive_gains=(0.0, 0.01)), None)
    assert told.adaptive is not None
    assert told.adaptive.gains == pytest.approx((0.0, 0.01), abs=1e-6)


@pytest.mark.parametrize("channels", [12, 17])
def test_many_channels_are_followed_or_left_alone(channels: int) -> None:
    """Twelve have room for short filters alone, seventeen for none."""
    recipe = SamplePriorRecipe(steps=(1,), mixture=0, adaptive_gains=(0.01,))
    found = fit_adaptive(plain_prior(38, channels), (signal_of(channels),), recipe, None)
    assert (found.adaptive is not None) == (channels == 12)
    x = ringing(9, 200, channels)
    assert size(found, x) <= size(plain_prior(38, channels), x)


def switching(seed: int, n: int) -> Frame:
    """Long plateaus between two levels, a little noise on one of them: two means, two scales."""
    rng = np.random.default_rng(seed)
    on = np.cumsum(rng.random(n) < 0.08) % 2
    return (300 * on + np.rint(rng.normal(0, 6, n) * on)).astype(np.int32)[None, :, None]


def plateaus() -> Signal:
    pieces = tuple(
        torch.from_numpy(switching(seed, 4000)[0].T.astype(np.float32)) for seed in (1, 2)
    )
    return Signal(segments=pieces, spread=torch.ones(1))


def test_learnt_parts_know_what_no_single_mean_tells() -> None:
    prior = plain_prior(30)
    recipe = SamplePriorRecipe(steps=(1, 7), train_steps=100, mixture=16)
    fixed = fit_adaptive(prior, (plateaus(),), replace(recipe, mixture=0), None)
    found = fit_adaptive(prior, (plateaus(),), recipe, None)
    assert found.adaptive is not None
    assert found.adaptive.learnt is not None
    x = switching(9, 1024)
    for delta in (1, 7):
        assert size(found, x, delta) < 0.9 * size(fixed, x, delta)
    again = SamplePrior.from_arrays(found.to_arrays())
    assert encode_samples(again, [x])[0][0] == encode_samples(found, [x])[0][0]  # type: ignore[index]


def test_learnt_parts_that_fail_lose_their_trust() -> None:
    """A net that is sure of the wrong thing costs a frame little more than its first samples."""
    outputs = np.array([0, 127, -30], np.int32)  # one part: far away and narrow
    net = CausalNet(
        n_inputs=4,
        past=np.zeros(4, bool),
        layers=(),
        head=CausalLayer(
            offsets=(0,),
            weight=np.zeros((3, 1, 4), np.int8),
            bias=outputs,
            shift=np.zeros(3, np.int32),
            bits=0,
        ),
    )
    rules = AdaptiveRules()
    wrong = replace(rules, learnt=MixtureNet(net=net, history=0), trust=(1 << 15,))
    x, prior = ringing(4, 1024), plain_prior(38)
    without = size(replace(prior, adaptive=rules), x)
    assert size(replace(prior, adaptive=wrong), x) < 1.06 * without


def test_jumps_beyond_the_tables_cost_what_the_likeliest_part_says() -> None:
    """A wide part tells how far escapes reach: their code is shorter than one that starts small."""
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.normal(0, 2, 1024) + (rng.random(1024) < 0.1) * rng.normal(0, 30000, 1024))
    frame = np.rint(x).astype(np.int32)[None, :, None]
    signal = Signal(segments=(torch.from_numpy(frame[0].T.astype(np.float32)),),
                    spread=torch.ones(1))  # fmt: skip
    prior = plain_prior(24)
    recipe = SamplePriorRecipe(steps=(1,), train_steps=100, mixture=16)
    found = fit_adaptive(prior, (signal,), recipe, None)
    assert found.adaptive is not None
    assert found.adaptive.learnt is not None
    plain = replace(found, adaptive=replace(found.adaptive, learnt=None, trust=()))
    assert size(found, frame) < 0.93 * size(plain, frame)


@pytest.mark.parametrize(
    ("gains", "words"), [([0.1], "one for each"), ([0.1, 2.0], "expected 0 to 1")]
)
def test_gains_that_do_not_fit_the_steps_are_refused(gains: list[float], words: str) -> None:
    values = {"name": "x", "sample_prior": [{"steps": [1, 3], "adaptive_gains": gains}]}
    with pytest.raises(ConfigError, match=words):
        recipe_from_dict(values)


def test_a_recipe_without_gains_chooses_them() -> None:
    recipe: Recipe = recipe_from_dict({"name": "x", "sample_prior": [{"steps": [1, 3]}]})
    assert recipe.sample_prior[0].adaptive
    assert recipe.sample_prior[0].adaptive_gains == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"taps": 25}, "taps"),
        ({"cross": 5}, "cross"),
        ({"forget": 0.4}, "forget"),
        ({"gains": (1.5,)}, "gain"),
        ({"gains": (0.1, 0.1)}, "per step"),
        ({"steps": (3, 3), "gains": (0.1, 0.1), "weights": ((9362,) * 6 + (9364,),) * 2}, "ascend"),
        ({"weights": ((1,) * 7,)}, "65536"),
        ({"levels": (0,)}, "level"),
        ({"trust": (9000,)}, "trust per step"),
    ],
)
def test_bad_rules_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        AdaptiveRules(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "outputs", "history", "dense", "words"),
    [
        (6, 4, 1, True, "3|weight"),
        (6, 27, 1, True, "1 to 8"),
        (6, 6, 25, True, "history"),
        (6, 6, 1, False, "step at hand|taps at 0"),
    ],
)
def test_bad_nets_of_a_mixture_are_refused(
    inputs: int, outputs: int, history: int, dense: bool, words: str
) -> None:
    net = random_net(8, [False] * inputs, outputs, feature_peak=127, dense=dense)
    with pytest.raises(ModelError, match=words):
        MixtureNet(net=net, history=history)


def test_a_net_for_other_channels_is_refused() -> None:
    net = MixtureNet(net=random_net(8, [False] * 6, 6, feature_peak=127, dense=True), history=1)
    rules = AdaptiveRules(learnt=net, trust=(9000,))
    assert replace(plain_prior(20), adaptive=rules).n_channels == 1
    with pytest.raises(ModelError, match="2 channels and 1 steps must read 12"):
        replace(plain_prior(20, channels=2), adaptive=rules)


def test_too_many_inputs_are_refused() -> None:
    net = random_net(1, [True] * 9, 18)
    with pytest.raises(ModelError, match="up to 64"):
        SamplePrior(
            net=net, shape=logistic_shape(), has_cond=False, adaptive=AdaptiveRules(taps=24)
        )
