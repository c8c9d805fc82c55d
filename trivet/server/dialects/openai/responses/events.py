"""The events of a streamed response, in the order in which they come; a struct's tag is the event's name."""

from __future__ import annotations

from msgspec import Struct

from trivet.server.dialects.openai.answers import TokenLogprob
from trivet.server.dialects.openai.responses.schemas import Item, OutputText, Response


class Event(Struct, kw_only=True):
    sequence_number: int = 0


class Created(Event, kw_only=True, tag="response.created"):
    response: Response


class Queued(Event, kw_only=True, tag="response.queued"):
    response: Response


class InProgress(Event, kw_only=True, tag="response.in_progress"):
    response: Response


class ItemAdded(Event, kw_only=True, tag="response.output_item.added"):
    output_index: int = 0
    item: Item


class PartEvent(Event, kw_only=True):
    """Says of which part of the answer it speaks: there is only one."""

    item_id: str
    output_index: int = 0
    content_index: int = 0


class PartAdded(PartEvent, kw_only=True, tag="response.content_part.added"):
    part: OutputText


class TextDelta(PartEvent, kw_only=True, tag="response.output_text.delta"):
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(PartEvent, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: list[TokenLogprob]


class PartDone(PartEvent, kw_only=True, tag="response.content_part.done"):
    part: OutputText


class ItemDone(Event, kw_only=True, tag="response.output_item.done"):
    output_index: int = 0
    item: Item


class Completed(Event, kw_only=True, tag="response.completed"):
    response: Response


class Incomplete(Event, kw_only=True, tag="response.incomplete"):
    response: Response


class Failed(Event, kw_only=True, tag="response.failed"):
    response: Response


class Error(Event, kw_only=True, tag="error"):
    """Ends what a reader gets, whatever becomes of the response."""

    code: str
    message: str
    param: str | None = None
