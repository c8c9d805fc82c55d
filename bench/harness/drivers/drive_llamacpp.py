"""llama.cpp, over the batch interface of llama-cpp-python. It samples nothing: the next tokens are random."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as llama
import numpy as np
from protocol import clock, serve

BATCH = 2048


class LlamaCpp:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.clock = clock(settings)
        self.threads: int = settings["threads"]
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(settings["model"].encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {settings['model']}")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.draw = np.random.default_rng(0)
        self.batch = llama.llama_batch_init(BATCH, 0, 1)
        self.context: Any = None
        self.case: dict[str, Any] = {}
        system = llama.llama_print_system_info().decode().strip()
        self.about = {"version": f"llama-cpp-python {llama.__version__}", "system": system}

    def run(self, case: dict[str, Any]) -> float:
        streams, length, tokens = case["streams"], case["context"], case["tokens"]
        fresh = case != self.case
        if fresh:
            self._open(streams, length + tokens)
            self.case = case
        memory = llama.llama_get_memory(self.context)
        if not tokens:
            llama.llama_memory_clear(memory, True)
            return self._read(length)
        if fresh:
            self._read(length)
            for stream in range(1, streams):
                llama.llama_memory_seq_cp(memory, 0, stream, -1, -1)
        start = self.clock()
        for step in range(tokens):
            self._decode([(length + step, stream) for stream in range(streams)], logits=range(streams))
        seconds = self.clock() - start
        for stream in range(streams):
            llama.llama_memory_seq_rm(memory, stream, length, -1)
        return seconds

    def _read(self, length: int) -> float:
        start = self.clock()
        for first in range(0, length, BATCH):
            rows = range(first, min(first + BATCH, length))
            self._decode([(position, 0) for position in rows], [len(rows) - 1] if rows.stop == length else [])
        return self.clock() - start

    def _decode(self, rows: list[tuple[int, int]], logits: Any) -> None:
        """rows: (position, sequence). logits: the rows that need them."""
        batch = self.batch
        batch.n_tokens = len(rows)
        ids = self.draw.integers(self.vocab_size, size=len(rows)).tolist()
        for row, (token, (position, sequence)) in enumerate(zip(ids, rows, strict=True)):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = 0
        for row in logits:
            batch.logits[row] = 1
        if code := llama.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode returned {code}")
        llama.llama_synchronize(self.context)

    def _open(self, streams: int, length: int) -> None:
        if self.context:
            llama.llama_free(self.context)
        params = llama.llama_context_default_params()
        params.n_seq_max = streams
        # Each sequence has an equal share, which is a multiple of 256.
        params.n_ctx = streams * -(-length // 256) * 256
        params.n_batch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp made no context")


@llama.llama_log_callback
def quiet(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    if level >= 3:
        print(text.decode(errors="replace"), end="", flush=True)


llama.llama_log_set(quiet, ctypes.c_void_p(0))
serve(LlamaCpp)
