"""Saying in GGUF what a Hugging Face folder says: `as_gguf`, after which any checkpoint can be written as a file."""

from trivet.convert.checkpoint import as_gguf

__all__ = ["as_gguf"]
