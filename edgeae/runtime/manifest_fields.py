"""Typed access to the JSON of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeae.errors import ModelError

__all__ = ["Fields"]


@dataclass(frozen=True)
class Fields:
    """Typed access to one JSON object, with messages that name the field."""

    path: str
    values: Mapping[str, Any]

    def fail(self, key: str, expected: str) -> ModelError:
        """The error that names a field, what it holds and what it should."""
        found = repr(self.values.get(key))[:60]
        return ModelError(f"manifest.json: {self.path}{key} is {found}, expected {expected}")

    def part(self, key: str) -> Fields:
        """A field that is an object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Fields(f"{self.path}{key}.", value)

    def text(self, key: str) -> str:
        """A string."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.fail(key, "a string")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer of a range."""
        value = self.values.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"an integer in {low}..{high}")
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Likewise, or null."""
        return None if self.values.get(key) is None else self.integer(key, low, high)

    def number(self, key: str) -> float:
        """A number, zero or more."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise self.fail(key, "a number >= 0")
        return float(value)

    def each(self, key: str, channels: int) -> list[Fields]:
        """The entries of a list with one for all channels, or one for each."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) not in (1, channels):
            raise self.fail(key, f"a list of 1 or {channels} entries")
        return [Fields(f"{self.path}{key}.", {str(c): item}) for c, item in enumerate(value)]

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """A list of so many integers of a range."""
        value = self.values.get(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or any(type(item) is not int or not low <= item <= high for item in value)
        ):
            raise self.fail(key, f"{count} integers in {low}..{high}")
        return tuple(value)
