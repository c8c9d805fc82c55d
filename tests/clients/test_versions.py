"""The peers' own clients, in several versions, against a real server: each in a virtual environment of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import running
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build/clients"
CLIENTS = [
    ("openai", "openai"),
    ("openai", "openai<2"),
    ("anthropic", "anthropic"),
    ("langchain", "langchain-openai"),
    ("litellm", "litellm"),
    ("huggingface_hub", "huggingface_hub"),
    ("huggingface_hub", "huggingface_hub==0.36.*"),
    ("huggingface_hub", "huggingface_hub[inference]==0.23.*"),
    ("text_generation", "text-generation==0.7.*"),
]
"""Script, and what it needs."""

pytestmark = pytest.mark.compare


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The built-in model behind a port."""
    with running(AsyncLLM(EngineArgs(served_model_name="shakespeare"))) as address:
        yield address


@pytest.mark.parametrize(("script", "requirement"), CLIENTS)
def test_a_client_works_unchanged(script: str, requirement: str, url: str) -> None:
    run(str(python_with(requirement)), str(HERE / f"{script}_client.py"), url)


def test_curl_works(url: str) -> None:
    run("bash", str(HERE / "curl_client.sh"), url)


def test_schemathesis_finds_no_server_error(url: str) -> None:
    options = "--checks not_a_server_error --phases coverage,fuzzing --max-time 60 --request-timeout 30 --no-color"
    schemathesis = python_with("schemathesis==4.*").with_name("schemathesis")
    configured = ("--config-file", str(HERE / "schemathesis.toml"))
    run(str(schemathesis), *configured, "run", f"{url}/openapi.json", *options.split())


def python_with(requirement: str) -> Path:
    """The interpreter of a virtual environment that holds one package; made once, and kept under build/."""
    folder = ENVIRONMENTS / re.sub(r"[^\w.]+", "-", requirement).strip("-")
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        run(sys.executable, "-m", "venv", "--clear", str(folder))
        run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
        (folder / "complete").touch()
    return python


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
