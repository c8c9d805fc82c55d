"""The `anthropic` package: messages, streamed and not, and the counting of tokens."""

import sys

from anthropic import Anthropic, BadRequestError

client = Anthropic(base_url=sys.argv[1], api_key="any", max_retries=0)
asked = {
    "model": "shakespeare",
    "system": "You are a player.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Speak, speak."}]}],
    "extra_body": {"temperature": 0},
}
whole = client.messages.create(**asked, max_tokens=12)
assert whole.role == "assistant" and whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 12
with client.messages.stream(**asked, max_tokens=12) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == whole.content[0].text == final.content[0].text
assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == 12
counted = client.messages.count_tokens(**{name: asked[name] for name in ("model", "system", "messages")})
assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)

try:
    client.messages.create(**asked, max_tokens=0)
except BadRequestError as error:
    assert error.body["error"]["type"] == "invalid_request_error", error.body
else:
    raise AssertionError("max_tokens=0 was accepted")
print("ok")
