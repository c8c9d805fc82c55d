"""vLLM's Python API, with its prefix cache: the time of a prompt of one token more is taken off a decode's."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from protocol import clock, serve

CACHE_GIB = "4"


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
            max_model_len=max(case["context"] + case["tokens"] + 1 for case in cases),
            max_num_seqs=max(case["streams"] for case in cases),
            enable_prefix_caching=True,
        )
        self.params = vllm.SamplingParams
        self.vocab_size = self.llm.get_tokenizer().vocab_size
        self.draw = np.random.default_rng(0)
        self.case: dict[str, Any] = {}
        self.prompts: list[list[int]] = []
        self.about = {"version": f"vllm {vllm.__version__}", "system": "bf16"}

    def run(self, case: dict[str, Any]) -> float:
        if not case["tokens"]:
            return self._generate(self._draw(1, case["context"]), 1)
        if case != self.case:
            self.case, self.prompts = case, self._draw(case["streams"], case["context"])
            self._generate(self.prompts, 1)
        return self._generate(self.prompts, case["tokens"] + 1) - self._generate(self.prompts, 1)

    def _draw(self, count: int, length: int) -> list[list[int]]:
        prompts: list[list[int]] = self.draw.integers(self.vocab_size, size=(count, length)).tolist()
        return prompts

    def _generate(self, prompts: list[list[int]], tokens: int) -> float:
        params = self.params(temperature=0, ignore_eos=True, max_tokens=tokens)
        start = self.clock()
        self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return self.clock() - start


if __name__ == "__main__":
    serve(Vllm)
