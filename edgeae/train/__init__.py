"""Recipes to trained runs: data, nets, loss, phases. Workstation side."""

from edgeae.train.recipe import Recipe, load_recipe, parse_recipe, recipe_names, with_overrides
from edgeae.train.run import RunFolder
from edgeae.train.training import train

__all__ = [
    "Recipe",
    "RunFolder",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "train",
    "with_overrides",
]
