"""vLLM's engine, step by step: a decode's time begins when all prompts have given their first token."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from protocol import clock, serve

CACHE_GIB = "4"
SLACK = 64
"""Tokens that the first prompts may be given while the last ones are read."""


class Vllm:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.clock = clock(settings)
        cores = sorted(os.sched_getaffinity(0))[: settings["threads"]]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CACHE_GIB)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import vllm

        cases = settings["cases"]
        self.llm = vllm.LLM(
            model=settings["model"],
            dtype="bfloat16",
            max_model_len=max(case["context"] + case["tokens"] + SLACK for case in cases),
            max_num_seqs=max(case["streams"] for case in cases),
        )
        self.params = vllm.SamplingParams
        self.vocab_size = self.llm.get_tokenizer().vocab_size
        self.draw = np.random.default_rng(0)
        self.requests = 0
        self.about = {"version": f"vllm {vllm.__version__}", "system": "bf16"}

    def run(self, case: dict[str, Any]) -> float:
        prompts = self.draw.integers(self.vocab_size, size=(case["streams"], case["context"])).tolist()
        engine = self.llm.llm_engine
        params = self.params(temperature=0, ignore_eos=True, max_tokens=case["tokens"] + SLACK if case["tokens"] else 1)
        start = self.clock()
        for prompt in prompts:
            self.requests += 1
            engine.add_request(str(self.requests), {"prompt_token_ids": prompt}, params)
        given: dict[str, int] = {}
        while len(given) < len(prompts):
            self._step(given)
        if case["tokens"]:
            start, last = self.clock(), sum(given.values()) + case["tokens"] * len(prompts)
            while sum(given.values()) < last:
                self._step(given)
        seconds: float = self.clock() - start
        engine.abort_request(list(given))
        while engine.has_unfinished_requests():
            engine.step()
        return seconds

    def _step(self, given: dict[str, int]) -> None:
        """Update how many tokens each request was given."""
        if not self.llm.llm_engine.has_unfinished_requests():
            raise RuntimeError(f"requests ended before all were under way: {SLACK} tokens of slack are too few")
        for output in self.llm.llm_engine.step():
            if output.outputs[0].token_ids:
                given[output.request_id] = len(output.outputs[0].token_ids)


if __name__ == "__main__":
    serve(Vllm)
