"""The same model in transformers (sdpa) and in vLLM, where they are installed.

Used by bench/gpu.py.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.gpu_agreement import relative
from bench.gpu_model import WARM_UP, seconds
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


def vllm_rows(
    folder: Path, prompt: int, batches: list[int], context: int, steps: int = 64, **options: Any
) -> Iterator[Row]:
    """Timed as bench/gpu_model.py times this engine. `options` are more of vLLM's, in place of those here."""
    if importlib.util.find_spec("vllm") is None:
        yield Row("vLLM", "not installed")
        return
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # Its engine in this process, as ours is.
    import vllm

    settings = {
        "skip_tokenizer_init": True, "enable_prefix_caching": False, "max_num_seqs": max(batches),
        "max_model_len": prompt + steps, "max_num_batched_tokens": max(prompt, 8192), "gpu_memory_utilization": 0.9,
        "compilation_config": {"cudagraph_capture_sizes": sorted({1, 2, 4, 8, *batches})},
    }  # fmt: skip
    began = time.perf_counter()
    engine = vllm.LLM(str(folder), **settings | options).llm_engine
    yield Row("vLLM", f"{vllm.__version__}, started in {time.perf_counter() - began:.0f} s")
    for batch in (0, *batches):
        name = f"vLLM: decode {batch} x {context}" if batch else f"vLLM: prefill {prompt}"
        try:
            took = vllm_decode(engine, batch, context, steps) if batch else vllm_prefill(engine, prompt)
            yield Row(name, f"{took * 1e3:.2f} ms, {(batch or prompt) / took:.0f} tok/s")
        except Exception as error:
            yield failure(name, error)


def vllm_add(engine: Any, name: str, prompt: int, tokens: int) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    ids = np.random.default_rng(list(name.encode())).integers(0, engine.model_config.get_vocab_size(), prompt)
    params = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
    engine.add_request(name, {"prompt_token_ids": ids.tolist()}, params)


def vllm_step(engine: Any) -> Counter[str]:
    """How many tokens each request got."""
    return Counter({output.request_id: len(output.outputs[0].token_ids) for output in engine.step()})


def vllm_prefill(engine: Any, tokens: int, repeats: int = 5) -> float:
    times = []
    for repeat in range(repeats + 1):
        vllm_add(engine, f"prompt {repeat}", tokens, 1)
        began = time.perf_counter()
        while engine.has_unfinished_requests():
            engine.step()
        times.append(time.perf_counter() - began)
    return median(times[1:])


def vllm_decode(engine: Any, batch: int, context: int, steps: int) -> float:
    """A step's seconds while all sequences decode. It schedules ahead: what counts is the tokens that come."""
    names = [f"{batch} {index}" for index in range(batch)]
    prompt = context - steps // 2 - WARM_UP
    for name in names:
        vllm_add(engine, name, prompt, engine.model_config.max_model_len - prompt)
    seen: Counter[str] = Counter()
    while min(seen[name] for name in names) < WARM_UP:
        seen += vllm_step(engine)
    began = time.perf_counter()
    tokens = sum(vllm_step(engine).total() for _ in range(steps))
    took = time.perf_counter() - began
    engine.abort_request(names)
    while engine.has_unfinished_requests():
        engine.step()
    return took * batch / tokens
