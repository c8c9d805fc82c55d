"""The program of an engine's own process: `python -m trivet.engine.worker SOCKET LOADER LOG`.

LOG is LogOptions as JSON. The first line of standard input is the EngineConfig as JSON; its end means that the parent
has gone.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import msgspec
import zmq

from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.messages import Failed, Ready, StoreCommand, Update, decode_commands, encode
from trivet.engine.request import TokenChunk
from trivet.errors import EngineError, RequestError, TrivetError
from trivet.logs import LogOptions, configure

NO_MEMORY = "there is not enough memory for the model and its KV cache; a smaller max_model_len needs less"


def main() -> int:
    endpoint, loader, log = sys.argv[1:4]
    faulthandler.enable()
    configure(msgspec.json.decode(log, type=LogOptions))
    # These reach whole groups of processes; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    threading.Thread(target=_end_with_parent, args=(endpoint,), daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.set_hwm(0)
        socket.connect(endpoint)
        try:
            engine = Engine(config, loader)
        except MemoryError:
            socket.send(encode(Failed(EngineError.__name__, NO_MEMORY)))
            return 1
        except Exception as error:
            known = isinstance(error, TrivetError)
            if not known:
                logging.getLogger(__name__).exception("the engine could not start")
            kind = type(error).__name__ if known else EngineError.__name__
            socket.send(encode(Failed(kind, str(error) if known else f"{type(error).__name__}: {error}")))
            return 1
        gc.freeze()  # What is loaded stays: the collector would only look at it again and again.
        socket.send(encode(Ready(engine.info)))
        serve(engine, socket)
    return 0


def serve(engine: Engine, socket: zmq.Socket[bytes]) -> None:
    """Step for ever; while there is nothing to do, sleep until a message comes."""
    while True:
        if not engine.busy:
            socket.poll()
        chunks = _receive(engine, socket)
        chunks += engine.step()
        socket.send(encode(Update(chunks, engine.stats())))


def _receive(engine: Engine, socket: zmq.Socket[bytes]) -> list[TokenChunk]:
    """Obey the commands that have come; returns the endings of requests that cannot run."""
    refusals: list[TokenChunk] = []
    while socket.poll(0):
        for command in decode_commands(socket.recv()):
            if isinstance(command, str):
                engine.cancel(command)
                continue
            if isinstance(command, StoreCommand):
                socket.send(encode(engine.store(command)))
                continue
            try:
                engine.add(command)
            except RequestError as error:
                refusals.append(TokenChunk(request_id=command.request_id, finish_reason="error", error=str(error)))
    return refusals


def _end_with_parent(endpoint: str) -> None:
    # Not sys.stdin, whose lock an ending interpreter wants.
    while os.read(0, 1):
        pass
    shutil.rmtree(Path(endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
