"""Where vLLM has them: modules that `python -m` runs."""
