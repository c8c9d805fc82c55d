"""A stand-in for `AsyncLLM` that always gives the same answer, one byte a token, and fails on demand."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator

from trivet.api.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput, TokenText
from trivet.api.request import GenerateRequest
from trivet.engine.request import EngineStats, ModelInfo
from trivet.errors import EngineError, OverloadedError
from trivet.sampling.params import SamplingParams

ANSWER = "Lily saw a café.\nShe ran home."
BOS, EOS, FIRST_BYTE = 1, 2, 3


class ByteTokenizer:
    vocab_size = FIRST_BYTE + 256
    bos_id = BOS
    eos_ids = (EOS,)
    specials = ("<unk>", "<s>", "</s>")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [BOS] * add_special + [FIRST_BYTE + byte for byte in text.encode()]

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        kept = [i for i in ids if not (skip_special and i < FIRST_BYTE)]
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return self.specials[token].encode() if token < FIRST_BYTE else bytes([token - FIRST_BYTE])

    def token_text(self, token: int) -> str:
        return self.decode([token])

    def is_special(self, token: int) -> bool:
        return token < FIRST_BYTE


class PlainTemplate:
    def render(self, messages, tools=None, add_generation_prompt=True, **kwargs) -> str:
        said = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return said + "assistant: " * add_generation_prompt


class FakeLLM:
    """fail_after: tokens after which the engine fails. delay: seconds between tokens."""

    def __init__(self, *, fail_after: int | None = None, overloaded: bool = False, delay: float = 0.0) -> None:
        self.tokenizer = ByteTokenizer()
        self.chat_template = PlainTemplate()
        self.recommended_params: dict[str, float] = {}
        self.info = ModelInfo(
            name="fake",
            architecture="llama",
            device="cpu (avx2, 2 threads)",
            dtype="f32",
            vocab_size=self.tokenizer.vocab_size,
            max_model_len=256,
            num_blocks=64,
            block_size=16,
            max_num_seqs=8,
            max_num_batched_tokens=256,
            weight_bytes=1000,
            cache_bytes=4000,
        )
        self.model_names = ["fake"]
        self.is_healthy = True
        self.fail_after, self.overloaded, self.delay = fail_after, overloaded, delay
        self.requests: list[GenerateRequest] = []
        self.running = 0
        self.cancelled = 0

    def stats(self) -> EngineStats:
        return EngineStats(running=self.running, blocks_total=64, blocks_used=self.running)

    def healthy(self) -> bool:
        return self.is_healthy

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        assert isinstance(request.prompt, list) and request.deltas
        if self.overloaded:
            raise OverloadedError("1024 requests are waiting", retry_after=2.5)
        self.requests.append(request)
        params, prompt = request.params, request.prompt
        room = self.info.max_model_len - len(prompt)
        scripts = [script(self.tokenizer, params, index, room) for index in range(params.n)]
        now = time.monotonic()
        metrics = RequestMetrics(queued_ts=now, scheduled_ts=now, first_token_ts=now, last_token_ts=now)
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            rest = [entry(self.tokenizer, token, params.prompt_logprobs) for token in prompt[1:]]
            prompt_logprobs = [None, *rest]
        self.running += 1
        finished = False
        try:
            for step in range(max(map(len, scripts))):
                if self.fail_after == step:
                    raise EngineError("the engine died")
                await asyncio.sleep(self.delay)
                metrics.last_token_ts = time.monotonic()
                finished = all(step + 1 >= len(one) for one in scripts)
                outputs = [one[step] for one in scripts if step < len(one)]
                yield RequestOutput(
                    request.request_id, None, prompt, prompt_logprobs, outputs, finished, metrics, len(prompt) // 16
                )
        finally:
            self.running -= 1
            self.cancelled += not finished


def script(tokenizer: ByteTokenizer, params: SamplingParams, index: int, room: int) -> list[CompletionOutput]:
    """The deltas of one sequence: the answer, cut as `params` say. Sequence i leaves out its first i bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens = [FIRST_BYTE + byte for byte in ANSWER.encode()[index:]] + [EOS]
    limit = min(params.max_tokens or room, room)
    deltas, text, total = [], "", 0.0
    for token in tokens[:limit]:
        total -= 0.5
        piece = "" if token == EOS else decoder.decode(bytes([token - FIRST_BYTE]))
        text += piece
        logprobs = None if params.logprobs is None else [entry(tokenizer, token, params.logprobs)]
        shown = TokenText(token, "</s>" if token == EOS else piece, token == EOS)
        delta = CompletionOutput(index, piece, [token], total, logprobs, tokens=[shown])
        deltas.append(delta)
        found = next((stop for stop in params.stop or [] if text.endswith(stop)), None)
        if found is not None:
            delta.finish_reason, delta.stop_reason = "stop", found
            if not params.include_stop_str_in_output:
                for late in deltas[-len(found) :]:
                    late.text = ""
            return deltas
        if token == EOS:
            delta.finish_reason = "stop"
    if deltas[-1].finish_reason is None:
        deltas[-1].finish_reason = "length"
    return deltas


def entry(tokenizer: ByteTokenizer, token: int, top: int) -> dict[int, Logprob]:
    """The token with rank 2, after the token before it in the vocabulary, before those that follow it."""
    ranked = [token - 1, token, *range(token + 1, token + 6)]
    found = {token: Logprob(-0.5, 2, tokenizer.token_text(token))}
    for rank, other in enumerate(ranked[:top], 1):
        found.setdefault(other, Logprob(-rank / 4, rank, tokenizer.token_text(other)))
    return found
