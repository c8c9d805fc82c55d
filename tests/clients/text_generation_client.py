"""`text-generation` 0.7: generation, streamed and not, chat, and errors."""

import asyncio
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Message

client = Client(sys.argv[1], timeout=60)
prompt = "Speak, speak."

whole = client.generate(prompt, max_new_tokens=12, decoder_input_details=True, top_n_tokens=2)
details = whole.details
assert (details.finish_reason.value, details.generated_tokens, len(details.tokens)) == ("length", 12, 12)
assert details.prefill[0].logprob is None and len(details.top_tokens) == 12 and details.seed is None
events = list(client.generate_stream(prompt, max_new_tokens=12, top_n_tokens=2))
assert [event.token for event in events] == details.tokens
assert [event.top_tokens for event in events] == details.top_tokens
assert events[-1].generated_text == whole.generated_text and events[-1].details.finish_reason == details.finish_reason
assert client.generate(prompt, max_new_tokens=12, return_full_text=True).generated_text == prompt + whole.generated_text

sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9, "typical_p": 0.9, "watermark": True}
first = client.generate(prompt, frequency_penalty=0.1, repetition_penalty=1.1, **sampling)
again = client.generate(prompt, frequency_penalty=0.1, repetition_penalty=1.1, seed=first.details.seed, **sampling)
assert again.generated_text == first.generated_text
best = client.generate(prompt, best_of=2, max_new_tokens=5, **sampling)
assert len(best.details.best_of_sequences) == 1 and best.details.best_of_sequences[0].generated_tokens <= 5
stopped = client.generate(prompt, stop_sequences=[details.tokens[0].text])
assert stopped.details.finish_reason.value == "stop_sequence" and stopped.generated_text == details.tokens[0].text

answer = client.chat([Message(role="user", content=prompt)], max_tokens=12, seed=7)
assert answer.choices[0].message.content and answer.usage["completion_tokens"] == 12

for ask in (client.generate, lambda *args, **fields: list(client.generate_stream(*args, **fields))):
    try:
        ask(prompt, stop_sequences=["a", "b", "c", "d", "e"])
    except ValidationError as error:
        assert str(error) == "Input validation error: `stop` supports up to 4 stop sequences. Given: 5"
    else:
        raise AssertionError("five stop strings were accepted")


async def together():
    asynchronous = AsyncClient(sys.argv[1], timeout=60)
    answers = await asyncio.gather(*(asynchronous.generate(prompt, max_new_tokens=12) for _ in range(4)))
    assert {answer.generated_text for answer in answers} == {whole.generated_text}
    pieces = [event.token.text async for event in asynchronous.generate_stream(prompt, max_new_tokens=12)]
    assert "".join(pieces) == whole.generated_text


asyncio.run(together())
print("ok")
