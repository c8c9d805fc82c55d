"""Everything about the GPU that needs one: checks the kernels, measures them and a whole model beside the machine's
limits and beside other engines, and prints one table at the end.

    python -m bench.gpu [--only checks|kernels|model|peers|quantized|settings|memory ...] [--output results.json]

`reached` is the measured speed over the bound's (of checks, 1 or 0). Sections come in the order of their weight, each
in a process of its own; the first, in which nothing is timed, run side by side. Results so far are written whenever
there is one; no section is begun, and those that run are ended, when --minutes are over. `--interpret` tries the script
on a tiny model without a GPU: there, speeds mean nothing. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console

from bench import gpu_table
from bench.gpu_table import Row
from bench.harness.machine import commit
from trivet.runtime.gpu import gpus

SECTIONS = {
    "attention checks": "checks",
    "attention checks, other heads": "checks",
    "product checks": "checks",
    "product checks, Q4_K Q5_K": "checks",
    "product checks, Q6_K Q8_0": "checks",
    "product checks, Q4_0 Q4_1": "checks",
    "product checks, Q5_0 Q5_1": "checks",
    "product checks, IQ4_NL IQ4_XS MXFP4": "checks",
    "elementwise checks": "checks",
    "sampling checks": "checks",
    "agreement": "model",
    "first start": "model",
    "model": "model",
    "kernels": "kernels",
    "transformers": "peers",
    "model fast": "model",
    "vllm": "peers",
    "quantized": "quantized",
    "fp8 cache": "settings",
    "eager": "settings",
    "memory": "memory",
}
"""Those of bench/gpu_sections.py, what matters most first; and what --only calls them."""

TOGETHER = 12
"""So many of them time nothing, but have Triton compile for minutes: side by side they take less."""

PARTS = list(dict.fromkeys(SECTIONS.values()))

COMMAND = [sys.executable, "-m", "bench.gpu_sections"]

SECTION_SECONDS = 240
"""No section may take longer: the others have something to tell too."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; all unless given")
    parser.add_argument(
        "--shape", default="llama-3.1-8b", help="llama-3.1-8b, llama-3.2-1b or tiny (bench/gpu_shapes.py)"
    )
    parser.add_argument("--folder", type=Path, help="of the random model: made if it is not there, and kept")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu.json"), help="results; as Markdown, a plot and logs beside it"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all ends (9)")
    parser.add_argument("--interpret", action="store_true", help="a dry run without a GPU, on small shapes")
    return parser.parse_args()


def device(interpret: bool) -> str:
    """The GPU's name. Exits, with what is missing."""
    if interpret:
        return "none: Triton's interpreter"
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    found = [gpu for gpu in gpus() if gpu.supported]
    if missing or not found:
        what = f"{' and '.join(missing)} installed" if missing else "an NVIDIA GPU of compute capability 8.0 or more"
        raise SystemExit(f"bench.gpu needs {what}; without a GPU, --interpret tries it on small shapes")
    return found[0].name


class Results:
    """Lines by section, written and shown as they come, from any thread."""

    def __init__(self, path: Path, machine: dict[str, str], console: Console) -> None:
        self.sections: dict[str, list[Row]] = {}
        self._path, self._machine, self._console = path, machine, console
        self._lock = threading.Lock()

    def add(self, section: str, row: Row) -> None:
        with self._lock:
            self.sections.setdefault(section, []).append(row)
            self._console.print(f"{section}{gpu_table.line(row)}", markup=False, highlight=False)
            gpu_table.write(self._path, self._machine, self.sections)


def measure(
    section: str, results: Results, options: argparse.Namespace, folder: Path, until: float, running: set[int]
) -> None:
    """Run a section. `running` has its process group while it runs."""
    began = time.monotonic()
    if began >= until:
        results.add(section, Row(section, "not run: the time was over", "", None, 1.0))
        return
    ends = min(until, began + SECTION_SECONDS * (10 if options.interpret else 1))
    log = options.output.with_name(f"{options.output.stem}-{section.replace(',', '').replace(' ', '-')}.log")
    shape, mode = ("tiny", "interpret") if options.interpret else (options.shape, "cuda")
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if options.interpret else {})
    command = [*COMMAND, section, shape, str(folder), mode]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        ) as process,
    ):
        running.add(process.pid)
        timer = threading.Timer(ends - began, kill, [process.pid])
        timer.start()
        try:
            assert process.stdout is not None
            for text in process.stdout:
                results.add(section, msgspec.json.decode(text, type=Row))
        except Exception as error:
            kill(process.pid)
            results.add(section, gpu_table.failure(f"what {section} says", error))
        process.wait()
        timer.cancel()
        running.discard(process.pid)
    if process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()
        last = said[-1][:160] if said else f"exit status {process.returncode}"
        last = "the time was over" if time.monotonic() >= ends else last
        results.add(section, Row(f"rest of {section}", last, f"see {log.name}", None, 1.0))
    results.add(section, Row(f"time of {section}", f"{time.monotonic() - began:.0f} s"))


def kill(group: int) -> None:
    """With what the process has started: other engines have processes of their own."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    options = arguments()
    machine = {"device": device(options.interpret), "shape": options.shape, "date": time.strftime("%F")}
    machine["commit"] = commit()
    machine["versions"] = ", ".join(f"{name} {version(name)}" for name in ("torch", "triton"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    console = Console(width=None if sys.stdout.isatty() else 180)
    until = time.monotonic() + 60 * options.minutes
    results, running = Results(options.output, machine, console), set[int]()
    wanted = [name for name, part in SECTIONS.items() if part in options.only]
    first = [name for name in list(SECTIONS)[:TOGETHER] if name in wanted]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(TOGETHER) as pool:
        folder = options.folder or Path(scratch) / "model"
        try:
            for sections in filter(None, (first, *([name] for name in wanted if name not in first))):
                console.rule(f"{', '.join(sections)}: {(until - time.monotonic()) / 60:.1f} min left", align="left")
                tasks = [pool.submit(measure, name, results, options, folder, until, running) for name in sections]
                for task in tasks:
                    task.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for group in list(running):
                kill(group)
            results.add("interrupted", Row("the rest", "not run", "", None, 1.0))
    console.rule(machine["device"], align="left")
    gpu_table.show(console, results.sections)
    ordered = sorted(results.sections, key=[*SECTIONS, "interrupted"].index)
    gpu_table.publish(options.output, machine, {name: results.sections[name] for name in ordered})
    sys.exit(any(row.verdict == "MISSED" for rows in results.sections.values() for row in rows))


if __name__ == "__main__":
    main()
