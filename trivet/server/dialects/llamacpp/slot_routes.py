"""GET /slots and POST /slots/{id}."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.errors import RequestError
from trivet.server.body import decode, read_body
from trivet.server.connection import while_connected
from trivet.server.dialects.llamacpp.errors import NotSupported
from trivet.server.dialects.llamacpp.schemas import SlotBody
from trivet.server.dialects.llamacpp.slots import Slot, slots_of
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

SHOW_TEXT = "LLAMA_SERVER_SLOTS_DEBUG"
"""An environment variable: with it, GET /slots shows prompts and what was generated."""


async def list_slots(service: Service, request: Request) -> Response:
    """What each slot does, or did last. With ?fail_on_no_slot=1, an error when none is idle."""
    if not service.options.slots_endpoint:
        raise NotSupported("This server does not support slots endpoint. Start it with `--slots`")
    slots = slots_of(service)
    if request.query_params.get("fail_on_no_slot") and not any(slot.idle.is_set() for slot in slots):
        raise Problem(Kind.UNAVAILABLE, "no slot available")
    return _json([describe(service, slot) for slot in slots])


async def act_on_slot(service: Service, request: Request) -> Response:
    """Save a slot's cache to a file, restore it from one, or erase it, once what the slot runs is over."""
    folder = service.options.slot_save_path
    if folder is None:
        raise NotSupported("This server does not support slots action. Start it with `--slot-save-path`")
    slots = slots_of(service)
    number = request.path_params["id"]
    if not (number.isdecimal() and len(number) < 10 and int(number) < len(slots)):
        raise Problem(Kind.INVALID, f"Invalid slot ID: slots go from 0 to {len(slots) - 1}, got {number}")
    slot = slots[int(number)]
    action = request.query_params.get("action", "")
    body = await read_body(request, service.options.payload_limit)
    if action == "erase":
        await while_connected(request.receive, slot.idle.wait())
        return _json(await erase(service, slot))
    if action not in ("save", "restore"):
        raise Problem(Kind.INVALID, f"Invalid action: it must be save, restore or erase, got {action!r:.100}")
    filename = decode(body, SlotBody).filename
    if not filename or not _is_plain(filename):
        raise Problem(Kind.INVALID, f"Invalid filename: it must be a plain name without a path, got {filename!r:.100}")
    await while_connected(request.receive, slot.idle.wait())
    run = save if action == "save" else restore
    return _json(await run(service, slot, folder / filename))


async def save(service: Service, slot: Slot, path: Path) -> dict[str, Any]:
    started = time.perf_counter()
    stored = await service.llm.store("save", slot.tokens, slot.salt, str(path))
    return {
        "id_slot": slot.id,
        "filename": path.name,
        "n_saved": len(stored.tokens),
        "n_written": stored.num_bytes,
        "timings": {"save_ms": _milliseconds(started)},
    }


async def restore(service: Service, slot: Slot, path: Path) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        stored = await service.llm.store("load", [], path=str(path))
    except RequestError as error:
        message = f"Unable to restore slot, no available space in KV cache or invalid slot save file: {error}"
        raise Problem(Kind.INVALID, message, "filename") from None
    slot.tokens, slot.salt = stored.tokens, ""
    return {
        "id_slot": slot.id,
        "filename": path.name,
        "n_restored": len(stored.tokens),
        "n_read": stored.num_bytes,
        "timings": {"restore_ms": _milliseconds(started)},
    }


async def erase(service: Service, slot: Slot) -> dict[str, Any]:
    erased = len(slot.tokens)
    await service.llm.store("drop", slot.tokens, slot.salt)
    slot.tokens = []
    return {"id_slot": slot.id, "n_erased": erased}


def describe(service: Service, slot: Slot) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": slot.id,
        "n_ctx": service.max_model_len,
        "speculative": False,
        "is_processing": not slot.idle.is_set(),
    }
    sequence = slot.sequence
    if sequence is None:
        return shown
    settings, decoded = sequence.settings, len(sequence.tokens)
    show_text = bool(os.environ.get(SHOW_TEXT))
    shown |= {
        "id_task": sequence.task,
        "n_prompt_tokens": len(sequence.prompt),
        "n_prompt_tokens_processed": len(sequence.prompt) - sequence.cached if sequence.metrics else 0,
        "n_prompt_tokens_cache": sequence.cached,
        "params": msgspec.to_builtins(settings) if show_text else settings.brief(),
        "next_token": [
            {
                "has_next_token": not sequence.ended,
                "has_new_line": "\n" in sequence.text,
                "n_remain": max(0, settings.n_predict - decoded) if settings.n_predict >= 0 else -1,
                "n_decoded": decoded,
            }
        ],
    }
    if show_text:
        shown |= {"prompt": service.llm.tokenizer.decode(sequence.prompt), "generated": sequence.text}
    return shown


def _is_plain(filename: str) -> bool:
    """A name in a folder, and nothing that leads out of it or hides in it."""
    return (
        len(filename.encode(errors="replace")) <= 255
        and filename.isprintable()
        and not filename.startswith(".")
        and not any(char in filename for char in '/\\:*?"<>|')
    )


def _milliseconds(started: float) -> float:
    return 1000 * (time.perf_counter() - started)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
