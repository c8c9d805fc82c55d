"""Servers under the same load, side by side: Trivet, llama-cpp-python's, vLLM's.

    python -m bench.servers [--models smollm2-360m] [--formats Q4_0,Q8_0] [--concurrency 1,8,32] [--rounds 3]
    python -m bench.servers --quick

All servers of a model run at once, and `trivet bench-serve` asks one after the other, at each concurrency, in turn;
idle ones cost next to nothing. Medians of the rounds are reported. vLLM has the model in bf16, whatever the others
have. A server that cannot be installed or started is named in the report, with the reason.

Writes OUTPUT.json (all numbers of every run), OUTPUT.md and OUTPUT-MODEL.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import models, report
from bench.harness.environments import DEFAULT_FOLDER, PEERS, CannotRun
from bench.harness.machine import describe, measure_limits
from bench.harness.process import ILLEGAL, last_line
from trivet.runtime.machine import usable_cores

TITLES = {"trivet": "Trivet", "llamacpp": "llama-cpp-python", "vllm": "vLLM (CPU)"}
GOAL = 3.0
START_SECONDS = 600
QUICK = {"models": "smollm2-360m", "formats": "Q4_0", "rounds": 1, "per_slot": 1, "peers": "llamacpp"}
FEWEST = 4
"""Requests of a run."""

Runs = dict[int, dict[str, list[dict[str, Any]]]]
"""By concurrency and server: the results of `trivet bench-serve`."""


def command(name: str, python: Path, path: Path, port: int, args: argparse.Namespace) -> list[Any]:
    context = args.input_len + args.output_len + 64
    if name == "trivet":
        return [python, "-m", "trivet", "serve", path, "--port", port, "--threads", args.threads]
    if name == "llamacpp":
        # Otherwise every request ends the one before it; one runs at a time.
        options = ["--interrupt_requests", "false", "--logits_all", "false", "--n_ctx", context]
        threads = ["--n_threads", args.threads, "--n_threads_batch", args.threads]
        return [python, "-m", "llama_cpp.server", "--model", path, "--port", port, *options, *threads]
    options = ["--dtype", "bfloat16", "--max-model-len", context]
    return [python, "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--port", port, *options]


@contextlib.contextmanager
def serving(name: str, python: Path, path: Path, args: argparse.Namespace) -> Iterator[str]:
    """The URL of a server, which is ended with the block. Raises CannotRun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = args.environments / f"{name}-server.log"
    with log.open("w") as output:
        words = [str(word) for word in command(name, python, path, port, args)]
        # vLLM would take nearly all memory for its cache, fail when others have some, and leave one core to its server.
        settings = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
        server = subprocess.Popen([*words, "--host", "127.0.0.1"], env=settings, stdout=output, stderr=output)
        try:
            wait(server, url, log)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server lists its model."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (code := server.poll()) is not None:
            illegal = code == -signal.SIGILL or "SIGILL" in log.read_text(errors="replace")
            raise CannotRun(ILLEGAL if illegal else f"ended with {code}: {last_line(str(log))}")
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise CannotRun(f"did not answer within {START_SECONDS} s")


def ask(url: str, tokenizer: Path, concurrency: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run of `trivet bench-serve`. Raises CannotRun."""
    requests = max(FEWEST, concurrency * args.per_slot)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "run.json")
        words = [sys.executable, "-m", "trivet", "bench-serve", "--url", url, "--tokenizer", tokenizer]
        words += ["--concurrency", concurrency, "--requests", requests, "--temperature", 0, "--json", found]
        words += ["--input-len", args.input_len, "--output-len", args.output_len, "--timeout", 3600]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode or not found.exists():
            raise CannotRun(f"trivet bench-serve: {(done.stderr or done.stdout).strip()[-300:]}")
        run: dict[str, Any] = json.loads(found.read_text())
        run["model_id"] = Path(run["model_id"]).name
    return run


class Comparison:
    """One model in one format, served by all."""

    def __init__(self, name: str, mix: str, pythons: dict[str, Path], args: argparse.Namespace) -> None:
        source, folder = models.source_model(name, args.models_folder)
        path = source if mix == "BF16" else models.quantised(source, mix, args.models_folder)
        self.model, self.mix, self.path, self.args = models.plain_name(source), mix, path, args
        self.servers = {"trivet": (Path(sys.executable), path)}
        for peer, python in pythons.items():
            if peer != "vllm":
                self.servers[peer] = (python, path)
            elif folder is not None:
                self.servers[peer] = (python, folder)
        self.runs: Runs = {concurrency: {} for concurrency in args.levels}
        self.cannot: dict[str, str] = {}

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            urls: dict[str, str] = {}
            for name, (python, path) in self.servers.items():
                try:
                    urls[name] = stack.enter_context(serving(name, python, path, self.args))
                except CannotRun as reason:
                    self.cannot[name] = str(reason)
            for level in self.args.levels:
                for index in range(self.args.rounds):
                    for name in list(urls)[:: 1 if index % 2 == 0 else -1]:
                        try:
                            run = ask(urls[name], self.path, level, self.args)
                        except CannotRun as reason:
                            self.cannot[name] = f"concurrency {level}: {reason}"
                            del urls[name]
                            continue
                        self.runs[level].setdefault(name, []).append(run)
                        rate = f"{run['output_throughput']:.1f} tok/s, TTFT p99 {run['p99_ttft_ms']:,.0f} ms"
                        print(f"{self.model} {self.mix} × {level}: {TITLES[name]} {rate}", flush=True)

    def value(self, level: int, name: str, metric: str) -> float | None:
        runs = self.runs[level].get(name)
        return median(run[metric] for run in runs) if runs else None

    def as_json(self) -> dict[str, Any]:
        return {"model": self.model, "format": self.mix, "cannot_run": self.cannot, "runs": self.runs}


def table(comparisons: list[Comparison], peers: list[str]) -> str:
    head = ["model", "concurrency"]
    for label in ("tok/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99"):
        head += [f"{label} {TITLES[name]}" for name in ("trivet", *peers)]
        head += ["×"] if label == "tok/s" else []
    rows = []
    for one in comparisons:
        for level in one.runs:
            row = [f"{one.model} {one.mix}", str(level)]
            for metric in ("output_throughput", "p50_ttft_ms", "p99_ttft_ms", "p50_itl_ms", "p99_itl_ms"):
                values = [one.value(level, name, metric) for name in ("trivet", *peers)]
                row += [report.number(value) for value in values]
                if metric == "output_throughput":
                    row.append(report.ratio(values[0], max((v for v in values[1:] if v), default=None)))
            failed = sum(run["failed"] for runs in one.runs[level].values() for run in runs)
            rows.append([*row, str(failed)])
    return report.markdown([*head, "failed"], rows)


def finish(args: argparse.Namespace, comparisons: list[Comparison], machine: dict[str, Any], limits: str) -> None:
    """Write what there is so far."""
    shown = [
        name for name in TITLES if name != "trivet" and any(name in r for c in comparisons for r in c.runs.values())
    ]
    cannot = args.cannot | {name: reason for one in comparisons for name, reason in one.cannot.items()}
    reasons = "".join(f"- {TITLES[name]}: {reason}\n" for name, reason in cannot.items())
    text = (
        f"# Servers side by side\n\n{report.preamble(machine, limits)}\n"
        f"Random prompts of {args.input_len} tokens, answers of {args.output_len}, {args.per_slot} requests for each "
        f"at a time ({FEWEST} at least); medians of {args.rounds} alternated rounds. Output tokens a second of all "
        "requests together, milliseconds to the first token (TTFT) and between tokens (ITL). ×: Trivet's throughput "
        f"over the best peer's; the goal is {GOAL:g} at 32. vLLM has the model in bf16.\n\n{table(comparisons, shown)}"
    )
    text += f"\nNot measured:\n\n{reasons}" if reasons else ""
    everything = {"machine": machine, "cannot_run": cannot, "comparisons": [one.as_json() for one in comparisons]}
    report.write(args.output, everything, text)
    metrics = {"output_throughput": "tokens/s", "p99_ttft_ms": "TTFT p99, ms"}
    for model in dict.fromkeys(one.model for one in comparisons):
        panels: dict[str, dict[str, dict[str, float]]] = {}
        for metric, label in metrics.items():
            for level in args.levels:
                groups = {one.mix: one for one in comparisons if one.model == model}
                panels[f"{label}, {level} at a time"] = {
                    mix: {name: value for name in TITLES if (value := one.value(level, name, metric)) is not None}
                    for mix, one in groups.items()
                }
        report.bars(args.output.with_name(f"{args.output.name}-{model}.png"), model, panels, TITLES, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2-360m", help="shapes or GGUF files, parted by commas")
    parser.add_argument("--formats", default="Q4_0,Q8_0")
    parser.add_argument("--peers", default="llamacpp,vllm")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-slot", type=int, default=2, help="requests of a run, times the concurrency")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quick", action="store_true", help="one format, one round, beside llama.cpp")
    parser.add_argument("--environments", type=Path, default=DEFAULT_FOLDER, help="where peers are installed")
    parser.add_argument("--models-folder", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--output", type=Path, default=Path("bench/results/servers"), help="without an ending")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    args.levels = [int(level) for level in args.concurrency.split(",")]
    args.cannot = {}
    pythons: dict[str, Path] = {}
    for name in filter(None, args.peers.split(",")):
        try:
            pythons[name] = PEERS[name].install(args.environments)
        except CannotRun as reason:
            args.cannot[name] = str(reason)
    limits = measure_limits(args.threads)
    machine = describe(limits, args.threads)
    comparisons: list[Comparison] = []
    for model in args.models.split(","):
        for mix in args.formats.split(","):
            comparisons.append(Comparison(model, mix, pythons, args))
            comparisons[-1].run()
            finish(args, comparisons, machine, str(limits))


if __name__ == "__main__":
    main()
