"""GGUF's quantised formats on the device: how their blocks are laid out there, and what they mean."""
