"""`langchain-openai`: a chat model and a completion model, streamed and not."""

import sys

from langchain_openai import ChatOpenAI, OpenAI

settings = {
    "base_url": sys.argv[1] + "/v1",
    "api_key": "any",
    "model": "shakespeare",
    "max_tokens": 12,
    "temperature": 0,
}
chat = ChatOpenAI(**settings)
answer = chat.invoke("Speak, speak.")
assert answer.content and answer.response_metadata["finish_reason"] == "length"
assert answer.usage_metadata["output_tokens"] == 12
assert "".join(chunk.content for chunk in chat.stream("Speak, speak.")) == answer.content

completion = OpenAI(**settings)
assert "".join(completion.stream("ROMEO:")) == completion.invoke("ROMEO:")
print("ok")
