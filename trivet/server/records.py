"""What the server keeps for clients to come back for, and the work it does while none of them waits."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine

from trivet.server.recording import Recording
from trivet.server.service import Service

MAX_COUNT = 1024
MAX_BYTES = 64 * 2**20


class Records:
    """Bodies by id, in memory, and recordings of how some were made. Past either limit those go first that were not
    used for longest.
    """

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._recordings: dict[str, Recording] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def put(self, key: str, body: bytes) -> None:
        self._bytes += len(body) - len(self._bodies.pop(key, b""))
        self._bodies[key] = body
        recorded = sum(recording.size for recording in self._recordings.values())
        while len(self._bodies) > self._max_count or self._bytes + recorded > self._max_bytes:
            recorded -= self.remove(next(iter(self._bodies)))

    def get(self, key: str) -> bytes | None:
        if key in self._bodies:
            self._bodies.move_to_end(key)
        return self._bodies.get(key)

    def remove(self, key: str) -> int:
        """Forget a body and its recording; returns the latter's size."""
        self._bytes -= len(self._bodies.pop(key, b""))
        recording = self._recordings.pop(key, None)
        return recording.size if recording else 0

    def record(self, key: str) -> Recording:
        """Begin a recording of how a body is made; it is kept as long as the body."""
        recording = Recording()
        if key in self._bodies:
            self._recordings[key] = recording
        return recording

    def recording(self, key: str) -> Recording | None:
        return self._recordings.get(key)

    def start(self, key: str, job: Coroutine[None, None, None]) -> None:
        """Run `job`, which answers for its own errors, while its client does something else."""
        task = asyncio.create_task(job)
        self._jobs[key] = task
        task.add_done_callback(lambda _: self._jobs.pop(key, None))

    async def stop(self, key: str) -> None:
        """Cancel the job that was started under this key, if it still runs, and wait until it has ended."""
        if task := self._jobs.get(key):
            task.cancel()
            await asyncio.wait([task])


def records_of(service: Service) -> Records:
    """The service's."""
    return service.kept(Records, Records)
