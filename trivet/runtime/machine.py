"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that the scheduler and, in a container, the CPU quota allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def available_bytes() -> int:
    """Memory that can be had without swapping, within the container's limit where there is one."""
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" in fields:
        available = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        reclaimable = dict(line.split() for line in _read(CGROUP / "memory.stat").splitlines())
        available = min(available, int(limit) - int(used) + int(reclaimable.get("inactive_file", 0)))
    return max(available, 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
