"""Types of the native module; each part's meaning is in its bindings.cpp."""

from collections.abc import Sequence
from typing import Any

import numpy as np

def system_info() -> dict[str, Any]: ...
def dequantize(type_id: int, blocks: np.ndarray, count: int) -> np.ndarray: ...
def matmul(type_id: int, data: np.ndarray, rows: int, columns: int, x: np.ndarray, threads: int = 1) -> np.ndarray: ...

class PackedMatrix:
    bytes: int
    def __init__(self, type_id: int, data: np.ndarray, rows: int, columns: int) -> None: ...
    def multiply(self, x: np.ndarray, threads: int = 1) -> np.ndarray: ...

class Program:
    threads: int
    weight_bytes: int
    listing: list[str]
    def __init__(
        self,
        threads: int,
        slots: Sequence[tuple[int, int]],
        cache_dtype: str,
        cache_layers: Sequence[tuple[int, int]],
    ) -> None: ...
    def add_matrices(self, type_id: int, columns: int, data: np.ndarray) -> int: ...
    def add_rotary(self, inv_freq: Sequence[float], interleaved: bool, magnitude: float) -> int: ...
    def embed(self, output: int, type_id: int, table: np.ndarray, scale: float) -> None: ...
    def rms_norm(self, input: int, output: int, weight: np.ndarray, eps: float, group: int) -> None: ...
    def add_rms_norm(self, a: int, b: int, sum: int, output: int, weight: np.ndarray, eps: float) -> None: ...
    def linear(self, input: int, outputs: Sequence[tuple[int, int, np.ndarray | None]]) -> None: ...
    def rope(self, input: int, output: int, rotary: int, head_dim: int) -> None: ...
    def attention(
        self,
        q: int,
        k: int,
        v: int,
        output: int,
        layer: int,
        heads: int,
        scale: float,
        window: int,
        softcap: float,
        sinks: np.ndarray | None = None,
    ) -> None: ...
    def act_mul(self, gate: int, up: int, output: int, act: str) -> None: ...
    def add(self, a: int, b: int, output: int) -> None: ...
    def scale(self, input: int, output: int, factor: float) -> None: ...
    def moe(
        self,
        input: int,
        output: int,
        router: int,
        gate: int,
        up: int,
        down: int,
        top_k: int,
        act: str,
        normalize: bool,
        scale: float,
    ) -> None: ...
    def select(self, input: int, output: int) -> None: ...
    def logits(self, input: int, matrix: int, softcap: float, scale: float) -> None: ...
    def cache_block_bytes(self, block_size: int) -> int: ...
    def allocate_cache(self, blocks: int, block_size: int) -> None: ...
    def run(
        self,
        token_ids: np.ndarray,
        positions: np.ndarray,
        query_starts: np.ndarray,
        context_lens: np.ndarray,
        block_tables: np.ndarray,
        logit_rows: np.ndarray,
    ) -> np.ndarray: ...

class Chain:
    def __init__(
        self,
        params: Any,
        bad_words: Sequence[Sequence[int]],
        dry_breakers: Sequence[tuple[Sequence[int], Sequence[int]]],
        end_tokens: Sequence[int],
        piece_parents: bytes,
    ) -> None: ...

def sample(
    logits: np.ndarray, rows: Sequence[Any]
) -> list[tuple[int, Any, str | None, tuple[float, float] | None]]: ...
def probabilities(logits: np.ndarray, rows: Sequence[Any]) -> np.ndarray: ...
def read_strings(data: memoryview, position: int, count: int) -> tuple[list[str], int]: ...

class RankedMerges:
    def __init__(
        self, tokens: list[str], merges: list[str], byte_tokens: Sequence[int], byte_level: bool, whole_words: bool
    ) -> None: ...
    def encode(self, words: list[str]) -> list[int]: ...

class ScoredMerges:
    def __init__(
        self, tokens: list[str], scores: Sequence[float], byte_tokens: Sequence[int], unknown: int
    ) -> None: ...
    def encode(self, texts: list[str]) -> list[int]: ...
