"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
from pathlib import Path

logger = logging.getLogger(__name__)
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


MCL_CURRENT, MCL_ONFAULT = 1, 4


def lock_memory() -> None:
    """Keep what this process has in memory from being swapped out: now what is there, and each other page once it is
    used, so that a cache takes no more than it needs. Where that is not allowed, the log says so, with the limit.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_ONFAULT) == 0:
        return
    code = ctypes.get_errno()
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if code in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) and limit != resource.RLIM_INFINITY:
        logger.warning(
            "mlock: the memory is not locked, as the limit on it (RLIMIT_MEMLOCK) is %d KiB; raise it with "
            "`ulimit -l unlimited` or `docker run --ulimit memlock=-1`",
            limit // 1024,
        )
    else:
        logger.warning("mlock: the memory is not locked: %s", os.strerror(code))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
