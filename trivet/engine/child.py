"""An engine's process, seen from its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from trivet import errors
from trivet.engine.config import EngineConfig
from trivet.engine.messages import Failed, Ready, Stored, Update, decode_report, encode
from trivet.engine.request import ModelInfo
from trivet.errors import EngineError, TrivetError
from trivet.logs import LogOptions

CLOSE_SECONDS = 5.0


class Died(EngineError):
    """The process ended before its model was loaded."""


class Child:
    """One run of the worker program, with the socket to it. It ends when its standard input does."""

    info: ModelInfo

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self._endpoint = endpoint
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False
        self._socket = context.socket(zmq.PAIR)
        self._socket.set_hwm(0)

    async def start(self, config: EngineConfig, loader: str, log: LogOptions) -> None:
        """Run the program until its model is loaded. Raises what the engine raised."""
        try:
            self._socket.bind(self._endpoint)
            # It imports what the parent does, whatever lies in the current directory: sources that are not built, say.
            path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
            # Its standard output is the parent's standard error: the parent's output is for results.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "trivet.engine.worker", self._endpoint, loader),
                msgspec.json.encode(log),
                env=os.environ | {"PYTHONPATH": path},
                stdin=asyncio.subprocess.PIPE,
                stdout=2,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(config) + b"\n")
            self.info = await self._loaded()
        except zmq.ZMQError as error:
            await self.close()
            raise EngineError(f"cannot open a socket at {self._endpoint}: {error}") from None
        except BaseException:
            await self.close()
            raise

    def send(self, commands: list[msgspec.Raw]) -> None:
        """Commands, each as `pack` gives it."""
        # Without a high-water mark a message is always taken at once.
        self._socket.send(encode(commands))

    async def receive(self) -> Update | Stored:
        report = decode_report(await self._socket.recv())
        assert isinstance(report, Update | Stored)
        return report

    async def received(self) -> list[Update | Stored]:
        """What a dead child has left in the socket."""
        reports: list[Update | Stored] = []
        while await self._socket.poll(20):
            reports.append(await self.receive())
        return reports

    async def ended(self) -> str:
        """Waits for the process to end; says how it did."""
        assert self._process is not None
        code = await self._process.wait()
        return f"ended with exit code {code}" if code >= 0 else f"died of signal {-code} ({signal.strsignal(-code)})"

    @property
    def killed(self) -> bool:
        """Whether somebody else than `kill` sent it SIGKILL."""
        assert self._process is not None
        return self._process.returncode == -signal.SIGKILL and not self._stopped

    def kill(self) -> None:
        assert self._process is not None
        self._stopped = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """End the process, by force if it must be."""
        self._socket.close(linger=0)
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def _loaded(self) -> ModelInfo:
        message = asyncio.ensure_future(self._socket.recv())
        ended = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({message, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not message.done():
                await asyncio.wait({message}, timeout=0.1)
            if not message.done():
                hint = "; is there enough memory?" if self.killed else ""
                raise Died(f"the engine's process {ended.result()} while loading the model{hint}")
            report = decode_report(message.result())
        finally:
            message.cancel()
            ended.cancel()
        if isinstance(report, Failed):
            kind: type[TrivetError] = getattr(errors, report.kind)
            raise kind(report.message)
        assert isinstance(report, Ready)
        return report.info
