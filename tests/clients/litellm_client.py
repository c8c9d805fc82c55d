"""`litellm`, by the OpenAI API and by Anthropic's."""

import sys

import litellm

asked = {
    "messages": [{"role": "user", "content": "Speak, speak."}],
    "max_tokens": 12,
    "temperature": 0,
    "api_key": "any",
}
for model, base in (("openai/shakespeare", sys.argv[1] + "/v1"), ("anthropic/shakespeare", sys.argv[1])):
    whole = litellm.completion(model=model, api_base=base, **asked)
    text = whole.choices[0].message.content
    assert text and whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 12
    chunks = litellm.completion(model=model, api_base=base, stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text, model
print("ok")
