"""An engine that plays back tokens, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import msgspec

from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk, TokenLogprob
from trivet.engine.streams import TokenStream
from trivet.errors import OverloadedError

BOS, EOS, EXTRA = 256, 257, 258
PADDING = 259
VOCAB = 260
"""The model's: one more than the tokenizer has."""


def write_byte_tokenizer(folder: Path, template: str | None = None) -> None:
    """A Hugging Face folder's tokenizer: ids 0 to 255 are the bytes, then `<s>`, `</s>` and `<extra>`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in letters.items()}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<extra>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "none", "eos_token_id": EOS}))


class ScriptedClient:
    """Answers the i-th sequence with the i-th script (again from the first after the last), `pace` tokens a chunk.

    A script ends at an end token, at max_tokens, or with its last token as "length"; one that holds a string
    fails there with that error. Past `limit` requests (None is what the arguments say), it is overloaded.
    """

    def __init__(
        self, *scripts: list[int | str], pace: int = 1, max_model_len: int = 1000, limit: int | None = 100
    ) -> None:
        self.scripts = scripts
        self.pace = pace
        self.limit = limit
        self.requests: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.alive = True
        self.info = ModelInfo(
            name="scripted",
            architecture="none",
            device="none",
            dtype="none",
            vocab_size=VOCAB,
            max_model_len=max_model_len,
            num_blocks=1,
            block_size=16,
            max_num_seqs=8,
            max_queue=1024,
            scheduling_policy="priority",
            max_num_batched_tokens=8,
            weight_bytes=0,
            cache_bytes=0,
        )

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.alive = False

    def healthy(self) -> bool:
        return self.alive

    def stats(self) -> EngineStats:
        return EngineStats(waiting=len(self.requests))

    def submit(self, request: EngineRequest) -> TokenStream:
        self.info.check(request)
        if len(self.requests) == self.limit:
            raise OverloadedError("full", retry_after=7)
        # What crosses the border to an engine is msgpack.
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=EngineRequest)
        script = self.scripts[len(self.requests) % len(self.scripts)]
        self.requests.append(request)
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue()
        task = asyncio.create_task(self._play(request, script, queue))
        return TokenStream(queue, partial(self._cancel, request.request_id, task, queue))

    def _cancel(self, request_id: str, task: asyncio.Task[None], queue: asyncio.Queue[TokenChunk]) -> None:
        self.cancelled.append(request_id)
        task.cancel()
        queue.put_nowait(TokenChunk(request_id=request_id, finish_reason="abort"))

    async def _play(self, request: EngineRequest, script: list[int | str], queue: asyncio.Queue[TokenChunk]) -> None:
        params = request.params
        stops = [] if params.ignore_eos else request.eos_token_ids
        stops = [*stops, *(params.stop_token_ids or [])]
        chunk = TokenChunk(request_id=request.request_id, cached_tokens=3, queued_at=1.0, scheduled_at=2.0)
        if params.prompt_logprobs is not None:
            chunk.prompt_logprobs = [None, *map(logprob, request.prompt[1:])]
            for _ in range(10):  # Other sequences find the prompt in the cache and are ahead.
                await asyncio.sleep(0)
        for made, token in enumerate(script, 1):
            if isinstance(token, str):
                chunk.finish_reason, chunk.error = "error", token
            else:
                chunk.tokens.append(token)
                chunk.first_emitted_at = chunk.first_emitted_at or 2.0 + made
                if params.logprobs is not None:
                    chunk.logprobs = [*(chunk.logprobs or []), logprob(token)]
                if token in stops and made > params.min_tokens:
                    chunk.finish_reason, chunk.stop_token = "stop", token
                elif made in (params.max_tokens, len(script)):
                    chunk.finish_reason = "length"
            if chunk.finish_reason or len(chunk.tokens) == self.pace:
                chunk.emitted_at = 2.0 + made
                queue.put_nowait(chunk)
                if chunk.finish_reason:
                    return
                chunk = TokenChunk(request_id=request.request_id)
                await asyncio.sleep(0)


def logprob(token: int) -> TokenLogprob:
    """That of the second best token; the best is the next id."""
    return TokenLogprob(token, -1.0 - token, 2, [((token + 1) % 256, -0.5), (token, -1.0 - token)])
