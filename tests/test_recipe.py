from __future__ import annotations

import dataclasses

import pytest

from edgeae.errors import ConfigError
from edgeae.train.recipe import (
    Recipe,
    load_recipe,
    parse_recipe,
    recipe_from_dict,
    recipe_names,
    recipe_to_dict,
    with_overrides,
)

SMALL = """
name = "demo"
seed = 7
[data]
source = "sensor"
[model]
strides = [4, 2]
kernels = [8, 4]
widths = [8, 8]
[[sample_prior]]
steps = [1, 11]
"""


def test_fields_left_out_take_their_defaults():
    recipe = parse_recipe(SMALL)
    assert (recipe.seed, recipe.model.strides, recipe.model.latent) == (7, (4, 2), 8)
    assert recipe.sample_prior[0].steps == (1, 11)
    assert recipe.sample_prior[0].taps == 32
    assert recipe.stride == 8


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_go_round(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    assert with_overrides(recipe, []) == recipe


def test_a_recipe_from_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    assert load_recipe(str(file)) == parse_recipe(SMALL)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sed = 1", "did you mean 'seed'"),
        ("[trian]\nsteps = 1", "did you mean 'train'"),
        ("[model]\nlatents = 4", "model.latents; did you mean 'latent'"),
        ("[model]\nzzz = 4", "known: family"),
        ('[model]\nfamily = "conv3d"', "expected one of"),
        ('[model]\nlatent = "4"', "expected int"),
        ("[model]\nlatent = true", "expected int"),
        ("[model]\nlatent = 0", "expected 1 to 128"),
        ("[model]\nlatent = 200", "expected 1 to 128"),
        ("[model]\nbits = 16", "expected 6 to 12"),
        ("[model]\nstrides = [4]", "one entry per layer"),
        ("[model]\nstrides = [32, 4, 2]", "must not be smaller"),
        ("[model]\nstrides = 4", "expected an array"),
        ("[train]\nsteps = -1", "not negative"),
        ("[train]\nsteps = 0", "expected 1 or more"),
        ("[train]\nlearning_rate = nan", "finite"),
        ("[train]\nlearning_rate = 0.0", "learning_rate is 0"),
        ("[train]\ncrop = 16", "train.crop is 16, expected 32"),
        ("[train]\nvalidate_every = 0", "validate_every"),
        ("[train]\nhard_after = 1.5", "expected 0 to 1"),
        ("[train]\nstep_range = [40, 8]", "low, then high"),
        ("[train]\nstep_range = [0, 8]", "step_range is 0"),
        ("[train]\nstep_range = [8]", "expected 2"),
        ("[latent_prior]\noffsets = [2, 1]", "ascend"),
        ("[latent_prior]\nwidth = 300", "0 to 256"),
        ("[[sample_prior]]\nsteps = [2]", "odd"),
        ("[[sample_prior]]\nsteps = []", "odd"),
        ("[[sample_prior]]\ntaps = 0", "sample_prior.0.taps"),
        ("[[sample_prior]]\nwidth = 300", "1 to 256"),
        ("[[sample_prior]]\ndilations = [1, 1, 1, 1, 1, 1, 1, 1]", "at most 7"),
        ('[[sample_prior]]\nkind = "guess"', "delta, level or pixel"),
        ('[model]\nfamily = "none"', "no model"),
        ('[model]\nfamily = "none"\n[[sample_prior]]\ncode = true', "needs a dyadic model"),
        ('task = "detect"', "trains codec and denoise"),
        ('task = "denoise"', "belong together"),
        ("data = 3", "expected a table"),
        ("[budgets]\nmax_parameters = 1.5", "expected int"),
    ],
)
def test_what_cannot_be_trained_is_told(line, words):
    with pytest.raises(ConfigError) as error:
        parse_recipe(f'name = "demo"\n{line}\n')
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["", "seed = 1", "name = ", "[[", "name = 3"])
def test_a_broken_file_is_told(text):
    with pytest.raises(ConfigError):
        parse_recipe(text)


def test_unknown_names_give_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'ecg-own'"):
        load_recipe("ecg-onw")
    with pytest.raises(ConfigError, match="cannot read"):
        load_recipe("missing.toml")


def test_settings_override_fields():
    recipe = parse_recipe(SMALL)
    changed = with_overrides(
        recipe,
        [
            "train.steps=12",
            "model.widths=[4, 6]",
            "data.source=my file.csv",
            "sample_prior.0.width=16",
            "budgets.max_parameters=900",
            "train.learning_rate=1",
        ],
    )
    assert changed.train.steps == 12
    assert changed.model.widths == (4, 6)
    assert changed.data.source == "my file.csv"
    assert changed.sample_prior[0].width == 16
    assert changed.budgets.max_parameters == 900
    assert changed.train.learning_rate == 1.0
    assert dataclasses.replace(changed.model, widths=(8, 8)) == recipe.model
    assert recipe == parse_recipe(SMALL)


@pytest.mark.parametrize(
    "setting",
    [
        "train.steps",
        "train.stepz=3",
        "sample_prior.4.width=3",
        "sample_prior.first.width=3",
        "model.widths.0=3",
        "seed.a.b=3",
        "train.steps=many",
        "train.crop=4",
    ],
)
def test_bad_settings_are_told(setting):
    with pytest.raises(ConfigError):
        with_overrides(parse_recipe(SMALL), [setting])


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_recipe(SMALL).seed = 3  # type: ignore[misc]
    assert isinstance(parse_recipe(SMALL), Recipe)
