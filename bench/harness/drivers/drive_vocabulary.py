"""Trivet as `trivet run` loads it, when it has read tokens of all parts of the vocabulary. There is nothing to time."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

from protocol import serve

sys.path.append(str(Path(__file__).parents[3]))

from trivet import SamplingParams
from trivet.cli import session
from trivet.weights import open_checkpoint


class Vocabulary:
    """They come in prompts that fill the context of the one case, one after the other."""

    def __init__(self, settings: dict[str, Any]) -> None:
        [case] = settings["cases"]
        model, length = settings["model"], case["context"]
        llm = session.load(model, max_model_len=length + 1, threads=settings["threads"], device="cpu")
        # One row of the table of embeddings in each of its pages is enough to have all of it in memory.
        row = open_checkpoint(model).tensors["token_embd.weight"].num_bytes // llm.info.vocab_size
        ids = list(range(0, llm.info.vocab_size, max(1, mmap.PAGESIZE // row)))
        ids *= -(-length // len(ids))
        prompts = [{"prompt_token_ids": ids[i : i + length]} for i in range(0, len(ids), length)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
        self.llm, self.about = llm, {"cache_bytes": llm.info.cache_bytes, "tokens": len(ids)}


if __name__ == "__main__":
    serve(Vocabulary)
