import ast
import subprocess
import sys

import pytest

from trivet import _native
from trivet.cli import main as cli
from trivet.errors import ModelError
from trivet.runtime import machine


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(trivet, args):
    code, out, _ = trivet(*args)
    assert code == 0
    for name, (_, help) in cli.COMMANDS.items():
        assert any(line.split() == [name, *help.split()] for line in out.splitlines()), name


def test_help_loads_no_command():
    code = "import sys; from trivet.cli.main import main; sys.argv = ['trivet']\ntry: main()\nexcept SystemExit: pass\n"
    code += "assert not {'numpy', 'rich', 'asyncio', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run m.gguf -p x", 300),
        ("chat --temp 0 m.gguf", 300),
        ("run -p m.gguf", 300),
        ("run other.gguf", None),
        ("run folder", None),
        ("run", None),
        ("serve m.gguf", None),
        ("inspect m.gguf", None),
        ("--help m.gguf", None),
    ],
)
def test_memory_is_prepared_for_a_model_that_is_named(line, expected, tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(bytes(300))
    monkeypatch.chdir(tmp_path)
    sizes = []
    monkeypatch.setattr(_native, "expect_weights", sizes.append)
    cli.expect_model(line.split())
    assert sizes == ([] if expected is None else [expected])


def test_no_memory_is_prepared_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(bytes(300))
    monkeypatch.setattr(machine, "available_bytes", lambda: 300)
    monkeypatch.setattr(_native, "expect_weights", lambda size: pytest.fail(f"{size} bytes are prepared"))
    cli.expect_model(["run", str(tmp_path / "m.gguf")])


PARSED = """
import sys
from trivet.cli.main import load
line = sys.argv[1:]
context = load("run").make_context("run", line)
assert "pydantic" not in sys.modules
print({name: value for name, value in context.params.items() if value is not None})
"""


def test_what_is_plainly_right_is_read_without_pydantic():
    """Whose import takes longer than all of ours."""
    line = "m.gguf -p x -n 3 -c 16k --temp 0.5 --top-p 1 --seed -1 --stop a --stop b --kv-cache-dtype q8_0/half -t 2"
    out = subprocess.run([sys.executable, "-c", PARSED, *line.split()], check=True, capture_output=True, text=True)
    assert ast.literal_eval(out.stdout) == {
        "model": "m.gguf",
        "prompt": "x",
        "max_tokens": 3,
        "max_model_len": 16000,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": -1,
        "stop": ["a", "b"],
        "kv_cache_dtype": "q8_0/f16",
        "threads": 2,
        "ignore_eos": False,
        "device": "auto",
    }
    subprocess.run([sys.executable, "-c", PARSED], check=True, capture_output=True)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(trivet, name):
    code, out, _ = trivet(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: trivet {name} ")
    assert "Usage" not in out[7:]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["runn"], "no such command 'runn'. Did you mean 'run'? (see `trivet --help`)"),
        (["xyzzy"], "no such command 'xyzzy' (see `trivet --help`)"),
        (["--versoin"], "no such option: --versoin, did you mean --version? (see `trivet --help`)"),
        (["run", "--promt", "x"], "no such option: --promt, did you mean --prompt? (see `trivet run --help`)"),
        (["run", "a", "b"], "got unexpected extra argument"),
        (["run", "--seed", "x"], "invalid value for '--seed' / '-s': "),
        (["run", "-c", "many"], "invalid value for '--max-model-len'"),
        (["run", "--kv-cache-dtype", "q8"], "invalid value for '--kv-cache-dtype': must be one of"),
        (["bench", "--batch", "1,0"], "invalid value for '--batch': give whole numbers of at least 1"),
        (["bench", "--batch", "1,two"], "invalid value for '--batch': give whole numbers of at least 1"),
        (["run", "-p"], "option '-p' requires an argument"),
    ],
)
def test_wrong_use_is_one_line_and_2(trivet, args, message):
    code, out, err = trivet(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"trivet: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ModelError("m.gguf: wrong magic\n  b'XXXX'"), 1, "trivet: error: m.gguf: wrong magic b'XXXX'\n"),
        (FileNotFoundError(2, "No such file", "a/b"), 1, "trivet: error: a/b: No such file\n"),
        (OSError("disk on fire"), 1, "trivet: error: disk on fire\n"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            1,
            "trivet: error: not valid text: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte\n",
        ),
        (MemoryError(), 1, "trivet: error: not enough memory\n"),
        (ImportError("no _native"), 1, "trivet: error: this installation does not work: no _native\n"),
        (KeyboardInterrupt(), 130, "trivet: interrupted\n"),
    ],
)
def test_failures_are_one_line(trivet, monkeypatch, raised, code, message):
    def fails() -> None:
        raise raised

    monkeypatch.setattr("trivet.cli.run.run", fails)
    assert trivet("run") == (code, "", message)


@pytest.mark.parametrize("name", ["run", "chat", "bench", "inspect"])
def test_a_missing_model_is_one_line(trivet, tmp_path, name):
    missing = str(tmp_path / "none.gguf")
    code, out, err = trivet(name, missing)
    assert (code, out) == (1, "")
    assert err.startswith(f"trivet: error: {missing}: no such file")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["run", "chat", "bench"])
def test_a_folder_that_holds_no_model_is_one_line(trivet, tmp_path, name):
    nothing = f"trivet: error: {tmp_path}: neither a Hugging Face folder (no config.json) nor one that holds"
    assert trivet(name, str(tmp_path))[2].startswith(nothing)
    (tmp_path / "config.json").write_text("{}")
    assert trivet(name, str(tmp_path))[2].startswith(f"trivet: error: {tmp_path}: there is neither model.safetensors")


def test_version(trivet):
    from trivet import __version__

    assert trivet("--version") == (0, f"trivet {__version__}\n", "")
