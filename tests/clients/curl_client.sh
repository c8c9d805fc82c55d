#!/usr/bin/env bash
# What people paste into a terminal. -f: a status of 400 or more fails.
set -euo pipefail
url=$1
ask() { curl -fsS "$url$1" -H 'Content-Type: application/json' -d "$2" | grep -F -- "$3" > /dev/null; }

curl -fsS "$url/health" "$url/metrics" "$url/v1/models" "$url/info" "$url/props" > /dev/null
ask /generate '{"inputs": "ROMEO:", "parameters": {"max_new_tokens": 5}}' '"generated_text"'
ask /generate_stream '{"inputs": "ROMEO:", "parameters": {"max_new_tokens": 5, "details": true}}' '"finish_reason":"length"'
ask / '{"inputs": "ROMEO:", "parameters": {"max_new_tokens": 5}}' '[{"generated_text"'
ask /v1/completions '{"model": "shakespeare", "prompt": "ROMEO:", "max_tokens": 5}' '"text_completion"'
ask /v1/chat/completions '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": true}' 'data: [DONE]'
ask /completion '{"prompt": "ROMEO:", "n_predict": 5}' '"tokens_predicted":5'
ask /v1/messages '{"model": "shakespeare", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}' '"type":"message"'
ask /v1/responses '{"model": "shakespeare", "input": "hi", "max_output_tokens": 5}' '"object":"response"'
for body in '{"content": "ROMEO"}' '{"prompt": "ROMEO"}' '{"inputs": "ROMEO"}'; do
  ask /tokenize "$body" '['
done
echo ok
