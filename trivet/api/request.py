"""The neutral request that every dialect and the Python API produce."""

from __future__ import annotations

from dataclasses import dataclass, field

from trivet.sampling.params import SamplingParams


@dataclass(slots=True)
class GenerateRequest:
    """`prompt` is text (encoded with `add_special_tokens`) or token ids (taken as they are).

    prompt_text: what the output calls the prompt, where that is token ids.
    truncate_prompt_tokens: keep only the last so many prompt tokens.
    tenant: an opaque name; tenants have equal shares of the engine.
    timeout: seconds after which the request is given up.
    deltas: stream only what is new (else each output is cumulative).
    report_progress: stream outputs while the prompt is processed, too; they say how much of it is done.
    """

    prompt: str | list[int]
    params: SamplingParams
    request_id: str
    prompt_text: str | None = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    priority: int = 0
    tenant: str = ""
    timeout: float | None = None
    cache_salt: str = ""
    deltas: bool = True
    report_progress: bool = False
    headers: dict[str, str] = field(default_factory=dict)
