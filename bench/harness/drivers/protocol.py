"""How a driver is asked: a line of JSON in, a line out. Runs in the environments of the peers."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

LONG = 4096
"""A context of so many tokens needs no round before the first that counts; others have one."""


def clock(settings: dict[str, Any]) -> Callable[[], float]:
    """Seconds: of the wall, or that this process worked."""
    return time.process_time if settings["cpu_time"] else time.perf_counter


class Driver(Protocol):
    """Made with the settings of `bench.harness.process.System`. A case is its fields by name."""

    about: dict[str, Any]

    def run(self, case: dict[str, Any]) -> float:
        """Seconds that the case took; what comes before it (other contexts, filling the cache) is not in them."""
        ...


def serve(make: Any) -> None:
    """Answer until the input ends. What libraries print goes to the error output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    driver: Driver = make(json.loads(sys.stdin.readline()))
    answer(driver.about)
    warm: set[str] = set()
    for line in sys.stdin:
        case = json.loads(line)
        if case["name"] not in warm and case["context"] < LONG:
            driver.run(case)
        warm.add(case["name"])
        answer({"seconds": driver.run(case)})
