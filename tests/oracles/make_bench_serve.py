"""Writes bench_serve.json: what `vllm bench serve` makes of a short run, with every request's own times.

    python -m tests.oracles.make_bench_serve path/to/vllm

Needs vLLM (0.32, any build; only its client runs).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server.conftest import running
from tests.server.fake_llm import FakeLLM, byte_model

FILE = Path(__file__).with_name("bench_serve.json")
GOODPUT = {"ttft": 60.0, "tpot": 27.0, "e2el": 250.0}


def main(vllm: str) -> None:
    tokenizer = byte_model()
    Path(tokenizer, "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with tempfile.TemporaryDirectory() as folder, running(FakeLLM(answer=[97] * 100, delay=0.02)) as url:
        result = Path(folder, "result.json")
        command = f"""bench serve --backend openai --base-url {url} --endpoint /v1/completions --model fake
            --tokenizer {tokenizer} --dataset-name random --random-input-len 20 --random-output-len 6
            --random-range-ratio 0.8 --num-prompts 12 --max-concurrency 3 --ignore-eos --disable-tqdm
            --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,95,99
            --save-result --save-detailed --result-filename {result} --goodput"""
        limits = [f"{name}:{limit}" for name, limit in GOODPUT.items()]
        subprocess.run([vllm, *command.split(), *limits], check=True)
        found = json.loads(result.read_text())
    for name in ("date", "generated_texts", "errors", "tokenizer_id"):
        found.pop(name, None)
    FILE.write_text(json.dumps({"goodput": GOODPUT, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
