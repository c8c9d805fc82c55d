"""What a process may use of the machine."""

import ctypes
import errno
import re
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trivet.runtime import machine

LOCKED = """
from pathlib import Path
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.weights.hub import BUILT_IN
try:
    engine = Engine(EngineConfig(model=str(BUILT_IN), mlock=True, threads=1))
except EngineError as error:
    print(error)
else:
    print(engine.info.weight_bytes, Path("/proc/self/status").read_text())
"""


def test_an_engine_locks_its_memory():
    run = subprocess.run([sys.executable, "-c", LOCKED], check=True, capture_output=True, text=True)
    if "RLIMIT_MEMLOCK" in run.stderr:
        pytest.skip(f"this machine does not allow it: {run.stderr}")
    locked = re.search(r"VmLck:\s+(\d+) kB", run.stdout)
    assert locked and int(locked[1]) * 1024 > int(run.stdout.split()[0])


@pytest.mark.parametrize(
    ("code", "limit", "message"),
    [
        (errno.ENOMEM, 8 << 20, "RLIMIT_MEMLOCK) is 8192 KiB"),
        (errno.EPERM, 0, "RLIMIT_MEMLOCK) is 0 KiB"),
        (errno.ENOSYS, resource.RLIM_INFINITY, "mlock: the memory is not locked: Function not implemented"),
    ],
)
def test_memory_that_may_not_be_locked(monkeypatch, caplog, code, limit, message):
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: SimpleNamespace(mlockall=lambda flags: -1))
    monkeypatch.setattr(ctypes, "get_errno", lambda: code)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    machine.lock_memory()
    assert message in caplog.text and len(caplog.records) == 1
