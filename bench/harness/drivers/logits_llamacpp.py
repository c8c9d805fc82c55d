"""llama.cpp's logits of given tokens: python logits_llamacpp.py MODEL.gguf TOKENS.npy LOGITS.npy [THREADS]

TOKENS: int32 [sequences, length]; LOGITS: float32 [sequences, length, vocabulary].
"""

from __future__ import annotations

import sys

import llama_cpp as llama
import numpy as np

model_path, tokens_path, logits_path = sys.argv[1:4]
threads = int(sys.argv[4]) if len(sys.argv) > 4 else 1
tokens = np.load(tokens_path)
count, length = tokens.shape

llama.llama_backend_init()
model = llama.llama_model_load_from_file(model_path.encode(), llama.llama_model_default_params())
if not model:
    raise SystemExit(f"llama.cpp cannot load {model_path}")
params = llama.llama_context_default_params()
params.n_ctx = params.n_batch = length
params.n_threads = params.n_threads_batch = threads
context = llama.llama_init_from_model(model, params)
vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
batch = llama.llama_batch_init(length, 0, 1)
logits = np.empty((count, length, vocab_size), np.float32)
for index, sequence in enumerate(tokens.tolist()):
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch.n_tokens = length
    for row, token in enumerate(sequence):
        batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, row, 1
        batch.seq_id[row][0], batch.logits[row] = 0, 1
    if code := llama.llama_decode(context, batch):
        raise SystemExit(f"llama_decode returned {code}")
    found = np.ctypeslib.as_array(llama.llama_get_logits(context), (length * vocab_size,))
    logits[index] = found.reshape(length, vocab_size)
np.save(logits_path, logits)
