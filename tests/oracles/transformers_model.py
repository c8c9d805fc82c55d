"""A model run by Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class TransformersModel:
    """Raises AssertionError when the folder's tensors are not exactly the model's."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        torch.set_num_threads(1)
        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), output_loading_info=True, attn_implementation="eager"
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Float32 [tokens, vocabulary] of one forward pass, nothing cached."""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0].float().numpy()

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]
