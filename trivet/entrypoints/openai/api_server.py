"""`python -m trivet.entrypoints.openai.api_server` is `trivet vllm serve`."""

import sys

from trivet.cli.main import main

if __name__ == "__main__":
    main(["vllm", "serve", *sys.argv[1:]])
