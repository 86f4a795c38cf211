"""Recipes to trained runs: data, nets, loss, phases. Workstation side.

Recipes and data sets need no torch, so nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {"RunFolder": "run", "train": "training"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'recipe')}"), name)
