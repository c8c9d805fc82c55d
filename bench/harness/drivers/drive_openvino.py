"""OpenVINO GenAI's continuous batching, on a folder that optimum-intel exported with int4 weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from protocol import clock, serve

CACHE_GIB = 4


class OpenVino:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.clock = clock(settings)
        import openvino
        import openvino_genai as genai

        source = Path(settings["model"])
        target = source.with_name(f"{source.name}-openvino-int4")
        if not target.exists():
            export = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "--model", source]
            options = ["--task", "text-generation-with-past", "--weight-format", "int4"]
            # The largest group that divides the columns of small models, too.
            subprocess.run([*export, *options, "--group-size", "64", target], check=True)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIB
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = max(case["streams"] for case in settings["cases"])
        properties = {"INFERENCE_NUM_THREADS": settings["threads"]}
        self.genai = genai
        self.pipeline = genai.ContinuousBatchingPipeline(str(target), scheduler, "CPU", properties)
        self.vocab_size = len(self.pipeline.get_tokenizer().get_vocab())
        self.tensor = openvino.Tensor
        self.draw = np.random.default_rng(0)
        self.case: dict[str, Any] = {}
        self.prompts: list[Any] = []
        self.about = {"version": f"openvino-genai {genai.__version__}", "system": "int4"}

    def run(self, case: dict[str, Any]) -> float:
        if not case["tokens"]:
            return self._generate(self._draw(1, case["context"]), 1)
        if case != self.case:
            self.case, self.prompts = case, self._draw(case["streams"], case["context"])
            self._generate(self.prompts, 1)
        return self._generate(self.prompts, case["tokens"] + 1) - self._generate(self.prompts, 1)

    def _draw(self, count: int, length: int) -> list[Any]:
        return [self.tensor(self.draw.integers(self.vocab_size, size=(1, length))) for _ in range(count)]

    def _generate(self, prompts: list[Any], tokens: int) -> float:
        config = self.genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        start = self.clock()
        self.pipeline.generate(prompts, [config] * len(prompts))
        return self.clock() - start


serve(OpenVino)
