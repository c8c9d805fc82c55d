"""A system under measurement: a driver in a process of its own, asked over pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.harness.environments import CannotRun

DRIVERS = Path(__file__).parent / "drivers"
ILLEGAL = "cannot run on this CPU: it dies with an illegal instruction"


@dataclass(frozen=True)
class Case:
    """What is timed: a prompt of `context` tokens read (tokens == 0), or so many `tokens` made by each of `streams`
    sequences that have `context` tokens already.
    """

    name: str
    streams: int
    context: int
    tokens: int = 0

    @property
    def counted(self) -> int:
        """Tokens that the time is for."""
        return self.streams * self.tokens or self.context


@dataclass(frozen=True)
class Sample:
    """tokens_per_second; others: the share of the machine's processors that was not the system's own; read: bytes a
    second that memory gave before and after, on average.
    """

    tokens_per_second: float
    others: float
    read: float


class System:
    """Loads the model; `about` is what it says of itself. `cpu_time`: measure the time that the process worked, not
    the time that passed. Raises CannotRun.
    """

    def __init__(
        self,
        driver: str,
        python: Path,
        model: Path,
        threads: int,
        cases: list[Case],
        log: Path,
        cpu_time: bool = False,
    ) -> None:
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [python, DRIVERS / f"{driver}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        settings = {"model": str(model), "threads": threads, "cpu_time": cpu_time, "cases": list(map(vars, cases))}
        self.about = self._ask(settings)

    def measure(self, case: Case, read_speed: Callable[[], float]) -> Sample:
        """Raises CannotRun."""
        before = read_speed()
        busy, own = busy_seconds(), self._own_seconds()
        start = time.perf_counter()
        seconds = self._ask(vars(case))["seconds"]
        wall = time.perf_counter() - start
        others = (busy_seconds() - busy) - (self._own_seconds() - own)
        read = (before + read_speed()) / 2
        return Sample(case.counted / seconds, max(0.0, others / wall / (os.cpu_count() or 1)), read)

    def peak_bytes(self) -> int:
        return peak_bytes(self.process.pid)

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.log.close()
            raise CannotRun(ILLEGAL if code == -signal.SIGILL else f"ended with {code}: {last_line(self.log.name)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CannotRun(answer["error"])
        return answer

    def _own_seconds(self) -> float:
        process = psutil.Process(self.process.pid)
        times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
        return sum(t.user + t.system for t in times)


def peak_bytes(pid: int) -> int:
    """The most memory that was resident since the process's program began, in bytes. What `wait4` says of a child
    begins with the memory of its parent.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].removesuffix("kB")) << 10


def busy_seconds() -> float:
    """Processor seconds that were not idle since the machine's start, those that its host took away too."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def last_line(path: str) -> str:
    lines = Path(path).read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
