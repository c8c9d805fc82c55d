"""How long a start takes, and how much memory a model does.

    python -m bench.start MODEL.gguf ... [--starts 10] [--context 4096] [--threads 2]

A start is `trivet run`, from its process's begin to the first text on its standard output, of a file that is in the
system's cache: one start before the first that counts sees to that. Its memory is the most that was resident by then,
pages of the file included. Then a process that has loaded the model likewise reads tokens of all parts of the
vocabulary, in prompts that fill the context: a table of embeddings that stays in the file and the KV cache become
resident only when they are used.

Writes OUTPUT.json (every start) and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import report
from bench.harness.environments import CannotRun
from bench.harness.machine import describe, measure_limits
from bench.harness.process import Case, System, last_line, peak_bytes
from trivet.models.config import ModelConfig
from trivet.runtime.machine import usable_cores
from trivet.weights import open_checkpoint

MOST_SECONDS = 1.0
FILE_SHARE, OWN_BYTES = 1.15, 150e6
"""A process may have so many times the file, the KV cache, and so much besides."""


@dataclass(frozen=True)
class Start:
    """Seconds to the first text; the most bytes resident by then."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Found:
    """peak_bytes: the most that was resident when tokens of all the vocabulary had been read."""

    model: str
    file_bytes: int
    cache_bytes: int
    starts: list[Start]
    tokens: int
    peak_bytes: int

    @property
    def seconds(self) -> float:
        return median(start.seconds for start in self.starts)

    @property
    def allowed_bytes(self) -> float:
        return FILE_SHARE * self.file_bytes + self.cache_bytes + OWN_BYTES

    def within(self) -> bool:
        """Both bounds."""
        most = max(self.peak_bytes, *(start.peak_bytes for start in self.starts))
        return self.seconds <= MOST_SECONDS and most <= self.allowed_bytes


def start(path: Path, context: int, threads: int, log: Path) -> Start:
    """Raises CannotRun."""
    options = ["--max-model-len", context, "--threads", threads, "--device", "cpu"]
    # It is ended long before it has filled the context, but not before its memory has been looked at.
    options += ["--prompt", "Once upon a time", "--max-tokens", -1, "--ignore-eos", "--temperature", 0]
    words = [sys.executable, "-m", "trivet", "run", path, *options]
    with log.open("w") as errors:
        began = time.perf_counter()
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        with process:
            assert process.stdout
            first = process.stdout.read(1)
            found = Start(time.perf_counter() - began, peak_bytes(process.pid)) if first else None
            process.kill()
    if found is None:
        raise CannotRun(f"{path}: {last_line(str(log))}")
    return found


def measure(path: Path, args: argparse.Namespace) -> Found:
    """Raises CannotRun."""
    log = args.output.with_suffix(".log")
    context = min(args.context, ModelConfig.from_checkpoint(open_checkpoint(str(path))).context_length)
    starts = []
    for index in range(args.starts + 1):
        found = start(path, context, args.threads, log)
        starts += [found] if index else []
        print(f"{path.name}: {found.seconds:.2f} s{'' if index else ' (not counted)'}", flush=True)
    print(f"{path.name}: reading tokens of all the vocabulary …", flush=True)
    prompts = Case("vocabulary", 1, context - 1)
    system = System("drive_vocabulary", Path(sys.executable), path, args.threads, [prompts], log)
    peak, about = system.peak_bytes(), system.about
    system.close()
    return Found(path.stem, path.stat().st_size, about["cache_bytes"], starts, about["tokens"], peak)


def table(all_found: list[Found]) -> str:
    head = ["model", "bounds", "start, s", "spread", "file, MB", "KV cache, MB"]
    head += ["resident after a start, MB", "after all the vocabulary, MB", "allowed, MB"]
    rows = []
    for found in all_found:
        seconds = [start.seconds for start in found.starts]
        resident = median(start.peak_bytes for start in found.starts)
        sizes = (found.file_bytes, found.cache_bytes, resident, found.peak_bytes, found.allowed_bytes)
        row = [
            found.model,
            "kept" if found.within() else "MISSED",
            f"{found.seconds:.2f}",
            report.percent(report.spread(seconds)),
        ]
        rows.append([*row, *(report.number(size / 1e6) for size in sizes)])
    return report.markdown(head, rows)


def finish(output: Path, machine: dict[str, Any], limits: str, all_found: list[Found]) -> None:
    """Write what there is so far."""
    text = (
        f"# Starts, and memory\n\n{report.preamble(machine, limits)}\n"
        f"From the begin of `trivet run` to its first text, the file being in the system's cache: the median of "
        f"{len(all_found[0].starts)} starts; spread: (largest − smallest) / median; at most {MOST_SECONDS:.1f} s. "
        "Resident: the most that ever was, in 10⁶ bytes, pages of the file included, at the first text and after "
        "tokens from every page of the table of embeddings were read in prompts that fill the context; at most "
        f"{FILE_SHARE:g} times the file, the KV cache and {OWN_BYTES / 1e6:.0f} MB.\n\n{table(all_found)}"
    )
    report.write(output, {"machine": machine, "models": [asdict(found) for found in all_found]}, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--context", type=int, default=4096, help="tokens; a model that has fewer has its own")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--output", type=Path, default=Path("bench/results/start"), help="without an ending")
    args = parser.parse_args()

    limits = measure_limits(args.threads)
    machine = describe(limits, args.threads)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    all_found: list[Found] = []
    for path in args.models:
        try:
            all_found.append(measure(path, args))
        except CannotRun as reason:
            raise SystemExit(str(reason)) from None
        finish(args.output, machine, str(limits), all_found)


if __name__ == "__main__":
    main()
