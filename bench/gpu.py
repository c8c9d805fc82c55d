"""Everything about the GPU that needs one: checks the kernels, measures them and a whole model beside the machine's
limits and beside other engines, and prints one table at the end.

    python -m bench.gpu [--only checks|kernels|model|peers|quantized ...] [--output results.json]

`reached` is the measured speed over the bound's (of checks, 1 or 0). Sections come in the order of their weight, each
in a process of its own, and the results so far are written after each; none is begun, and the one that runs is ended,
when --minutes are over. `--interpret` tries the script on a tiny model without a GPU: there, speeds mean nothing.
Exits with 1 where a target is missed.
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
from pathlib import Path

import msgspec
from rich.console import Console

from bench import gpu_table
from bench.gpu_table import Row
from trivet.runtime.gpu import gpus

SECTIONS = {
    "checks": "checks",
    "agreement": "model",
    "model": "model",
    "model fast": "model",
    "kernels": "kernels",
    "transformers": "peers",
    "vllm": "peers",
    "quantized": "quantized",
    "formats": "checks",
}
"""Those of bench/gpu_sections.py, what matters most first; and what --only calls them."""

PARTS = list(dict.fromkeys(SECTIONS.values()))

SECTION_SECONDS = 240
"""No section may take longer: the others have something to tell too."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; all unless given")
    parser.add_argument(
        "--shape", default="llama-3.1-8b", help="llama-3.1-8b, llama-3.2-1b or tiny (bench/gpu_shapes.py)"
    )
    parser.add_argument("--folder", type=Path, help="of the random model: made if it is not there, and kept")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="results; a plot and logs lie beside it")
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


def measure(
    section: str, rows: list[Row], options: argparse.Namespace, folder: Path, until: float, console: Console
) -> None:
    """Run a section: its lines are shown and added to `rows` as they come."""
    log = options.output.with_name(f"{options.output.stem}-{section.replace(' ', '-')}.log")
    shape, mode = ("tiny", "interpret") if options.interpret else (options.shape, "cuda")
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if options.interpret else {})
    command = [sys.executable, "-m", "bench.gpu_sections", section, shape, str(folder), mode]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        timer = threading.Timer(max(1.0, until - time.monotonic()), process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for text in process.stdout:
                rows.append(msgspec.json.decode(text, type=Row))
                console.print(gpu_table.line(rows[-1]), markup=False, highlight=False)
        finally:
            timer.cancel()
            if sys.exc_info()[0]:
                process.kill()
        process.wait()
    if process.returncode:
        late = time.monotonic() >= until
        said = log.read_text().strip().splitlines()
        last = "the time was over" if late else (said[-1] if said else f"exit status {process.returncode}")
        rows.append(Row(f"rest of {section}", last[:160], f"see {log.name}", None, 1.0))


def stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    options = arguments()
    machine = {"device": device(options.interpret), "shape": options.shape, "date": time.strftime("%F %T")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    console = Console(width=None if sys.stdout.isatty() else 180)
    until = time.monotonic() + 60 * options.minutes
    results: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "model"
        try:
            for section in [name for name, part in SECTIONS.items() if part in options.only]:
                left = until - time.monotonic()
                if left <= 0:
                    results[section] = [Row(section, "not run: the time was over", "", None, 1.0)]
                    continue
                console.rule(f"{section}, {left / 60:.1f} min left", align="left")
                began = time.monotonic()
                with console.status(section):
                    ends = min(until, began + SECTION_SECONDS * (10 if options.interpret else 1))
                    measure(section, results.setdefault(section, []), options, folder, ends, console)
                results[section].append(Row(f"time of {section}", f"{time.monotonic() - began:.0f} s"))
                gpu_table.write(options.output, machine, results)
        except KeyboardInterrupt:
            results["interrupted"] = [Row("the rest", "not run", "", None, 1.0)]
    console.rule(machine["device"], align="left")
    gpu_table.show(console, results)
    gpu_table.write(options.output, machine, results)
    sys.exit(any(row.verdict == "MISSED" for rows in results.values() for row in rows))


if __name__ == "__main__":
    main()
