"""`trivet tokenize`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.make_tokenizers import write_vocabulary
from tests.text.vocabs import metadata
from trivet.cli import main
from trivet.text.tokenizer import Tokenizer


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "vocab.gguf"
    write_vocabulary(path, metadata("bpe") | {"tokenizer.ggml.add_bos_token": True})
    return str(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr("sys.argv", ["trivet", "tokenize", *arguments])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as exit_:
        main.main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (["--no-special"], {"add_special": False}),
        (["--no-parse-special"], {"parse_special": False}),
        (["--no-special", "--no-parse-special"], {"add_special": False, "parse_special": False}),
    ],
)
def test_a_line_for_each_text(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], options: Any
) -> None:
    texts = ["ab 1<|im_end|>", "", "é\n"]
    tokenizer = Tokenizer.load(model)
    ids = [tokenizer.encode(text, **options) for text in texts]
    assert run(monkeypatch, model, *flags, *(part for text in texts for part in ("--text", text))) == 0
    assert [list(map(int, line.split())) for line in capsys.readouterr().out.split("\n")[:-1]] == ids
    assert run(monkeypatch, model, *flags, "--json", "--text", texts[2]) == 0
    pieces = [tokenizer.token_text(i) for i in ids[2]]
    assert json.loads(capsys.readouterr().out) == {"text": texts[2], "ids": ids[2], "pieces": pieces}


def test_standard_input_is_one_text(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a\nb\r\n\n<|im_end|>é"
    assert run(monkeypatch, model, "--stdin", stdin=text.encode()) == 0
    assert list(map(int, capsys.readouterr().out.split())) == Tokenizer.load(model).encode(text)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "reason"),
    [
        ([], b"", 2, "give either --text or --stdin"),
        (["--text", "a", "--stdin"], b"", 2, "give either --text or --stdin"),
        (["--stdin"], b"ab\xff", 2, "standard input is not UTF-8: invalid start byte at byte 2"),
        (["--text", "\udcff"], b"", 1, "half of a surrogate pair"),
    ],
)
def test_wrong_use(
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    stdin: bytes,
    code: int,
    reason: str,
) -> None:
    assert run(monkeypatch, model, *arguments, stdin=stdin) == code
    captured = capsys.readouterr()
    assert reason in captured.err and captured.out == "" and captured.err.count("\n") == 1
