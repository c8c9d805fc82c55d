"""Coverage-guided fuzzing of what reads bytes of strangers. Needs atheris, which no test suite installs.

    python tests/fuzz/parsers.py gguf [libFuzzer's arguments: -max_total_time=60, a folder with a corpus]
    python tests/fuzz/parsers.py bodies …
    python tests/fuzz/parsers.py template …

Whatever comes, a reader may only take it, or refuse it with its own error. (hypothesis does the same in the everyday
suite, less deeply: tests/weights/test_fuzz.py.)
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
PACKAGES = ["trivet.weights", "trivet.server.body", "trivet.server.fields", "trivet.text"]

with atheris.instrument_imports(include=PACKAGES):
    from trivet.errors import ModelError, RequestError
    from trivet.server.body import body_keys, decode
    from trivet.server.errors import Problem
    from trivet.server.fields import refuse_unsupported
    from trivet.server.routing import DIALECTS
    from trivet.text.compiled_template import CompiledTemplate
    from trivet.weights.gguf import GGUFFile


def gguf() -> Callable[[bytes], None]:
    # Where files are memory, writing one takes no time.
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").exists() else None)) / "model.gguf"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ModelError):
            file = GGUFFile(path)
            for name in file.tensors:
                file.load(name)

    return read


def bodies() -> Callable[[bytes], None]:
    operations = [operation for _, table in DIALECTS.values() for operation in table if operation.body is not None]
    shapes = [shape for one in operations for shape in get_args(one.body) or (one.body,)]

    def read(data: bytes) -> None:
        shape = shapes[data[0] % len(shapes)] if data else shapes[0]
        body_keys(data[1:])
        with suppress(Problem, RequestError):
            refuse_unsupported(decode(data[1:], shape))

    return read


def template() -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with suppress(ModelError, RequestError):
            compiled = CompiledTemplate(data.decode("utf-8", "ignore"), {"bos_token": "<s>"})
            compiled.render([{"role": "user", "content": "hi"}], tools=None, add_generation_prompt=True)

    return read


if __name__ == "__main__":
    target = {"gguf": gguf, "bodies": bodies, "template": template}[sys.argv.pop(1)]()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
