"""The same model in transformers (sdpa) and in vLLM, where they are installed.

Used by bench/gpu.py.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_agreement import relative
from bench.gpu_model import seconds
from bench.gpu_table import Row, check, failure

SAVED = "trivet-logits.npz"
"""Beside the model: a prompt, and the logits that this engine computed for it."""


def transformers_rows(folder: Path, prompt: int, batches: list[int], context: int, device: str) -> Iterator[Row]:
    if importlib.util.find_spec("transformers") is None:
        yield Row("transformers", "not installed")
        return
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").to(
        device
    )
    ids = torch.randint(model.config.vocab_size, (1, prompt), device=device)
    with torch.inference_mode():
        for batch in (0, *batches):
            name = f"transformers: decode {batch} x {context}" if batch else f"transformers: prefill {prompt}"
            try:
                if batch:
                    took = decode_seconds(model, batch, context, device)
                else:
                    took = seconds(lambda: model(ids, logits_to_keep=1, use_cache=True), device, 3)
                yield Row(name, f"{took * 1e3:.2f} ms, {(batch or prompt) / took:.0f} tok/s")
            except Exception as error:
                yield Row(name, "out of memory") if isinstance(error, torch.OutOfMemoryError) else failure(name, error)
        if (folder / SAVED).exists():
            yield agreement(model, folder, device)


def decode_seconds(model: torch.nn.Module, batch: int, context: int, device: str) -> float:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for start in range(0, context, 128):  # In parts: what a whole large batch needs may not fit.
        part = torch.randint(model.config.vocab_size, (batch, min(128, context - start)), device=device)
        model(part, past_key_values=cache, logits_to_keep=1)
    token = torch.randint(model.config.vocab_size, (batch, 1), device=device)
    return seconds(lambda: model(token, past_key_values=cache).logits.argmax(-1), device)


def agreement(model: torch.nn.Module, folder: Path, device: str) -> Row:
    """Both in bfloat16 against transformers in float32: ours may be off by 1.5 times what theirs is."""
    saved = np.load(folder / SAVED)
    ids = torch.from_numpy(saved["tokens"]).long().to(device)[None]
    theirs = model(ids).logits[0].float().cpu().numpy()
    exact = model.float()(ids).logits[0].cpu().numpy()
    ours, allowed = relative(saved["logits"], exact), 1.5 * relative(theirs, exact)
    return check(
        "logits beside transformers' in float32", ours, allowed, f"off by {{:.1e}}, theirs by {allowed / 1.5:.1e}"
    )


def vllm_rows(folder: Path, prompt: int, batches: list[int], context: int, steps: int = 64) -> Iterator[Row]:
    """Decoding is what `steps` more tokens take."""
    if importlib.util.find_spec("vllm") is None:
        yield Row("vLLM", "not installed")
        return
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), skip_tokenizer_init=True, max_model_len=prompt + steps, enable_prefix_caching=False)
    rng = np.random.default_rng(0)

    def took(batch: int, length: int, tokens: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": rng.integers(0, 1000, length).tolist()} for _ in range(batch)]
        began = time.perf_counter()
        llm.generate(inputs, params, use_tqdm=False)
        return time.perf_counter() - began

    took(1, prompt, 1)
    one = took(1, prompt, 1)
    yield Row(f"vLLM: prefill {prompt}", f"{one * 1e3:.1f} ms, {prompt / one:.0f} tok/s")
    for batch in batches:
        name = f"vLLM: decode {batch} x {context}"
        try:
            step = (took(batch, context - steps // 2, steps + 1) - took(batch, context - steps // 2, 1)) / steps
            yield Row(name, f"{step * 1e3:.2f} ms, {batch / step:.0f} tok/s")
        except Exception as error:
            yield failure(name, error)
