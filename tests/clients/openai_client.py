"""The `openai` package, 1.x and newer: chat, completions and responses, streamed and not, models and errors."""

import sys

from openai import APIStatusError, NotFoundError, OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="any", max_retries=0)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

chat = {"model": model, "messages": [{"role": "user", "content": "Speak, speak."}], "max_tokens": 12, "seed": 7}
whole = client.chat.completions.create(**chat, logprobs=True, top_logprobs=2)
chunks = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
assert whole.object == "chat.completion" and chunks[0].object == "chat.completion.chunk"
assert chunks[0].choices[0].delta.role == whole.choices[0].message.role == "assistant"
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens == 12
assert len(whole.choices[0].logprobs.content) == 12
assert all(len(token.top_logprobs) == 2 for token in whole.choices[0].logprobs.content)

completion = {"model": model, "prompt": ["ROMEO:", "JULIET:"], "max_tokens": 8, "temperature": 0}
both = client.completions.create(**completion, n=1, echo=True)
texts = ["", ""]
for chunk in client.completions.create(**completion, stream=True):
    texts[chunk.choices[0].index] += chunk.choices[0].text
assert [choice.text for choice in both.choices] == [p + t for p, t in zip(completion["prompt"], texts, strict=True)]

asked = {"model": model, "input": "Speak, speak.", "max_output_tokens": 12, "temperature": 0}
whole = client.responses.create(**asked)
events = list(client.responses.create(**asked, stream=True))
text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert text == whole.output_text == events[-1].response.output_text and whole.usage.output_tokens == 12
assert client.responses.retrieve(whole.id).output_text == text
more = client.responses.create(**asked | {"input": "And?", "previous_response_id": whole.id})
assert more.usage.input_tokens > whole.usage.total_tokens
client.responses.delete(whole.id)

for wrong, error in (({"model": "no-such-model"}, NotFoundError), ({"max_tokens": -1}, APIStatusError)):
    try:
        client.chat.completions.create(**{**chat, **wrong})
    except error as caught:
        assert caught.body["message"], caught
    else:
        raise AssertionError(f"{wrong} was accepted")
print("ok")
