"""`huggingface_hub`, 0.23 and newer: text generation and chat, streamed and not, their details and errors."""

import sys

import huggingface_hub
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

version = tuple(map(int, huggingface_hub.__version__.split(".")[:2]))
client = InferenceClient(model=sys.argv[1])
asked = {"prompt": "Speak, speak.", "max_new_tokens": 12, "return_full_text": False}


def generate(**fields):
    return client.text_generation(**asked, **fields)


text = generate()
whole = generate(details=True, decoder_input_details=True, top_n_tokens=3)
assert whole.generated_text == text and whole.details.seed is None
assert (whole.details.finish_reason, whole.details.generated_tokens) == ("length", 12)
assert "".join(token.text for token in whole.details.tokens if not token.special) == text
assert whole.details.prefill[0].logprob is None and all(token.logprob <= 0 for token in whole.details.prefill[1:])
assert [best[0]["id"] for best in whole.details.top_tokens] == [token.id for token in whole.details.tokens]
full = client.text_generation(asked["prompt"], max_new_tokens=12, return_full_text=True)
assert full == asked["prompt"] + text

assert "".join(generate(stream=True)) == text
events = list(generate(stream=True, details=True))
assert [event.token.text for event in events] == [token.text for token in whole.details.tokens]
assert all(event.generated_text is None and event.details is None for event in events[:-1])
assert events[-1].generated_text == text and events[-1].details.generated_tokens == 12

sampling = {"do_sample": True, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "typical_p": 0.95, "watermark": True}
first = generate(details=True, repetition_penalty=1.1, **sampling)
again = generate(details=True, repetition_penalty=1.1, seed=first.details.seed, **sampling)
assert first.details.seed is not None and again.generated_text == first.generated_text
assert len(generate(details=True, best_of=2, **sampling).details.best_of_sequences) == 1
stop = {"stop" if version >= (0, 26) else "stop_sequences": [whole.details.tokens[3].text]}
stopped = generate(details=True, truncate=5, **stop).details
assert stopped.finish_reason in ("stop_sequence", "length")

for fields in ({"top_p": 1.0}, {"temperature": -1.0, "stream": True}):
    try:
        list(generate(**fields))
    except ValidationError as error:
        assert "Input validation error: `t" in str(error), error
    else:
        raise AssertionError(f"{fields} was accepted")

chat = {"messages": [{"role": "user", "content": "Speak, speak."}], "max_tokens": 12, "seed": 7}
answer = client.chat_completion(**chat, logprobs=True, top_logprobs=2)
assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length"
assert len(answer.choices[0].logprobs.content) == 12 and answer.usage.completion_tokens == 12
if version >= (0, 24):  # before, it could not read the end of a chat's stream
    chunks = list(client.chat_completion(**chat, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content
    with_path = InferenceClient(base_url=sys.argv[1] + "/v1")
    assert with_path.chat.completions.create(**chat).choices[0].message == answer.choices[0].message
    assert with_path.text_generation(**asked) == text
    watch = client if version < (0, 30) else InferenceClient(model=sys.argv[1], provider="hf-inference")
    assert watch.health_check() and watch.get_endpoint_info()["max_total_tokens"] > 12
print("ok")
