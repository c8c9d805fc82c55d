"""Types of the native module; each part's meaning is in its bindings.cpp."""

from collections.abc import Sequence
from typing import Any

import numpy as np

def sample(logits: np.ndarray, rows: Sequence[Any]) -> list[tuple[int, Any, str | None]]: ...
def probabilities(logits: np.ndarray, rows: Sequence[Any]) -> np.ndarray: ...
