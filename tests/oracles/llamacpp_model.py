"""A GGUF file run by llama.cpp, through the llama-cpp-python package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class LlamaCppModel:
    def __init__(self, path: Path) -> None:
        import llama_cpp

        f32 = llama_cpp.GGML_TYPE_F32
        self.model = llama_cpp.Llama(
            str(path), n_ctx=256, n_threads=1, logits_all=True, type_k=f32, type_v=f32, verbose=False
        )

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Float32 [tokens, vocabulary]."""
        self.model.reset()
        self.model.eval(list(tokens))
        return np.array(self.model.scores[: len(tokens)])
