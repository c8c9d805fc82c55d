"""How each format's blocks are found, from float32 `[blocks, values]` to uint8 `[blocks, bytes]`. Layouts are ggml's."""
