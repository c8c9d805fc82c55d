"""What an engine's process and its client say to each other, as msgpack, one list or struct a frame."""

from __future__ import annotations

import msgspec

from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk

Command = EngineRequest | str
"""A request to add, or the id of one to cancel."""


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


encode = msgspec.msgpack.Encoder().encode
decode_commands = msgspec.msgpack.Decoder(list[Command]).decode
decode_report = msgspec.msgpack.Decoder(Ready | Failed | Update).decode
