"""Typed reads of a model's metadata; each error names the key, its value and what is expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from trivet.errors import ModelError


class Fields:
    """`values` under `prefix` (a GGUF's `llama.`). A default of None makes a field required.

    A null counts as missing: Hugging Face configurations write it so.
    """

    def __init__(self, path: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self.prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self.values.get(self.prefix + key) is not None

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
        expected = f"an integer between {low} and {high}"
        value = self._get(key, default, expected)
        if not _is_number(value) or int(value) != value or not low <= value <= high:
            raise self.error(key, value, expected)
        return int(value)

    def number(self, key: str, default: float | None = None, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number with low <= number <= high."""
        expected = "a finite number" + (f" from {low:g} to {high:g}" if (low, high) != (-math.inf, math.inf) else "")
        value = self._get(key, default, expected)
        if not _is_number(value) or not low <= value <= high:
            raise self.error(key, value, expected)
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default, "a finite number above 0")
        if not _is_number(value) or value <= 0:
            raise self.error(key, value, "a finite number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default, "true or false")
        if not isinstance(value, bool | np.bool_):
            raise self.error(key, value, "true or false")
        return bool(value)

    def choice(self, key: str, options: Collection[str], default: str | None = None) -> str:
        expected = "one of " + ", ".join(options)
        value = self._get(key, default, expected)
        if not isinstance(value, str) or value not in options:
            raise self.error(key, value, expected)
        return value

    def numbers(self, key: str, length: int) -> list[float]:
        expected = f"{length} finite numbers above 0"
        value = self._get(key, None, expected)
        ok = isinstance(value, Sequence | np.ndarray) and len(value) == length
        if not ok or not all(_is_number(x) and x > 0 for x in value):
            raise self.error(key, value, expected)
        return [float(x) for x in value]

    def per_layer(self, key: str, layers: int, default: int | None = None, low: int = 1) -> int:
        """An integer that may be written as one for each layer, all alike."""
        value = self.values.get(self.prefix + key)
        if not isinstance(value, list | np.ndarray):
            return self.integer(key, default, low)
        if len(value) != layers or len({*map(str, value)}) != 1:
            raise self.error(key, value, f"one integer, or {layers} that are equal")
        return Fields(self.path, {key: value[0]}).integer(key, None, low)

    def section(self, key: str) -> Fields:
        """A nested mapping, empty where there is none."""
        value = self._get(key, {}, "an object")
        if not isinstance(value, Mapping):
            raise self.error(key, value, "an object")
        return Fields(self.path, value)

    def error(self, key: str, value: Any, expected: str) -> ModelError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ModelError(f"{self.path}: {self.prefix}{key} is {shown}, expected {expected}")

    def _get(self, key: str, default: Any, expected: str) -> Any:
        value = self.values.get(self.prefix + key)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.path}: {self.prefix}{key} is missing, expected {expected}")
        return value


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)
    except OverflowError:
        return False
