"""How each format's blocks are found: float32 `[blocks, values]` to uint8 `[blocks, bytes]`. Layouts are ggml's."""
