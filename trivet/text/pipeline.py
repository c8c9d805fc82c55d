"""Texts through a pipeline of the `tokenizers` library, which lets other threads run only while it encodes batches."""

from __future__ import annotations

import os

from tokenizers import Encoding, Tokenizer

LONG_TEXT = 4096
"""Characters from which a text is worth a thread, so that the event loop goes on."""

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a batch of one needs no threads of the library's own


def encode(pipeline: Tokenizer, text: str, add_special: bool = False) -> Encoding:
    """As `pipeline.encode`; while a long text is cut, other threads run."""
    if len(text) < LONG_TEXT:
        return pipeline.encode(text, add_special_tokens=add_special)
    return pipeline.encode_batch([text], add_special_tokens=add_special)[0]
