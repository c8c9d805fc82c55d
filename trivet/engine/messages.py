"""What an engine's process and its client say to each other, as msgpack, one list or struct a frame."""

from __future__ import annotations

import msgspec

from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk
from trivet.errors import RequestError


class StoreCommand(msgspec.Struct, tag=True):
    """Do something with the cached blocks of a sequence: "save" them to a file, "load" them from one, "drop" them.

    `cache_salt` is that of the requests which share them; `tokens` are the sequence's, where it is not loaded.
    """

    number: int
    action: str
    tokens: list[int] = []
    cache_salt: str = ""
    path: str = ""


Command = EngineRequest | StoreCommand | str
"""A request to add, something to do with the cache, or the id of a request to cancel."""


class Ready(msgspec.Struct, tag=True):
    """The model is loaded."""

    info: ModelInfo


class Failed(msgspec.Struct, tag=True):
    """The engine could not start; `kind` is the name of the exception in trivet.errors."""

    kind: str
    message: str


class Update(msgspec.Struct, tag=True):
    """What a step brought. There is one for every step, so that it also shows that there is progress."""

    chunks: list[TokenChunk]
    stats: EngineStats


class Stored(msgspec.Struct, tag=True):
    """What came of the StoreCommand of that number: the tokens whose blocks it was about, the bytes of the file; or why
    it was refused.
    """

    number: int
    tokens: list[int] = []
    num_bytes: int = 0
    error: str | None = None


encode = msgspec.msgpack.Encoder().encode
decode_commands = msgspec.msgpack.Decoder(list[Command]).decode
decode_report = msgspec.msgpack.Decoder(Ready | Failed | Update | Stored).decode


def pack(command: Command) -> msgspec.Raw:
    """An entry of the list of commands. Raises RequestError for what has no place in a message."""
    try:
        return msgspec.Raw(encode(command))
    except (OverflowError, UnicodeError, TypeError) as error:
        raise RequestError(f"the engine takes integers of 64 bits and valid text only: {error}") from None
