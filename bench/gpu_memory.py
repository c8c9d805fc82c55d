"""Starts for which a GPU's memory does not suffice: an error that names what to change, and nothing else.

Used by bench/gpu.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import gpu_interpreter
from bench.gpu_table import Row

SECONDS = 60
"""No start may take longer."""

LEFT = 2 << 30
"""Bytes that are left free where another process holds the rest: less than the weights of Llama 3.2 1B take."""


@dataclass(frozen=True)
class Start:
    """Options of `trivet serve` with Llama 3.2 1B that no GPU has the memory for, and what the error names."""

    options: tuple[str, ...]
    named: str
    beside: bool = False
    """Beside a process that holds the GPU's memory."""


STARTS = {
    "a share of the memory": Start(("--gpu-memory-utilization", "0.01"), "gpu_memory_utilization 0.01 lets"),
    "the cache": Start(("--num-gpu-blocks-override", "10000000"), "num_blocks 10000000 asks for"),
    # The residual, its norm, queries, keys and values, and rotated queries take 147 GB.
    "a step": Start(("--max-num-batched-tokens", "8000000"), "max_num_batched_tokens 8000000"),
    "the weights": Start((), "gpu_layers", beside=True),
}

TINY = {"a share of the memory": ("--max-num-batched-tokens", "16"), "the cache": ("--max-num-seqs", "2")}
"""Those that are refused without a GPU too, in little time."""


def row(name: str, model: Path, interpret: bool) -> Row:
    """Raises subprocess.TimeoutExpired where the server starts, or hangs."""
    start = STARTS[name]
    program = [sys.executable, "-m", "bench.gpu_memory" if interpret else "trivet"]
    common = ["--device", "cuda", "--port", "0", "--max-model-len", "64" if interpret else "1024"]
    with others() if start.beside else nullcontext():
        ended = subprocess.run(
            [*program, "serve", str(model), *common, *start.options, *(TINY[name] if interpret else ())],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    sys.stderr.write(ended.stderr)
    last = (ended.stderr.strip().splitlines() or [""])[-1]
    error = last.removeprefix("trivet: error: ")
    refused = ended.returncode == 1 and error != last and start.named in error and "Traceback" not in ended.stderr
    return Row(
        f"no memory for {name}", error[:160], f"an error that names {start.named.split()[0]}", float(refused), 1.0
    )


@contextmanager
def others() -> Iterator[None]:
    held = torch.empty(torch.cuda.mem_get_info()[0] - LEFT, dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


def main() -> None:
    """`trivet` without a GPU: the engine is then in this process, where kernels have stand-ins."""
    from trivet.cli.main import main as trivet
    from trivet.engine import process
    from trivet.engine.inprocess import InProcessClient

    gpu_interpreter.install(kernels=False)
    process.ProcessClient = lambda config, log: InProcessClient(config)  # type: ignore[misc, assignment]
    trivet()


if __name__ == "__main__":
    main()
