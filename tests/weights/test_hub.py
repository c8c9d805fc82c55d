"""From a model's name to a path, with the hub's client replaced: nothing here uses the network."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from trivet.errors import ModelError
from trivet.weights import hub
from trivet.weights.gguf import GGUFFile

GGUFS = [
    "README.md",
    "mmproj-model-f16.gguf",
    "model-IQ4_XS.gguf",
    "model-Q4_K_S.gguf",
    "model.Q4_K_M.gguf",
    "Q8_0/model-Q8_0-00001-of-00002.gguf",
    "Q8_0/model-Q8_0-00002-of-00002.gguf",
]
FOLDER = [
    "config.json",
    "consolidated.safetensors",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "onnx/model.onnx",
    "pytorch_model.bin",
    "tokenizer.json",
    "chat_template.jinja",
]


class Hub:
    """Stands in for the hub: `files` is what the repository holds, `error` what any request raises."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.files: list[str] = []
        self.error: Exception | None = None
        self.download_error: Exception | None = None
        self.fetched: list[str] = []
        self.access: list[dict[str, Any]] = []
        """The further keywords of each call."""

    def model_info(self, repo: str, **access: Any) -> SimpleNamespace:
        assert repo == "org/name"
        self.access.append(access)
        if self.error:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(
        self, repo: str, allow_patterns: list[str], local_files_only: bool = False, **access: Any
    ) -> str:
        self.access.append(access)
        if local_files_only and not self.cache.exists():
            raise errors.LocalEntryNotFoundError("not cached")
        if self.download_error:
            raise self.download_error
        if not local_files_only:
            self.fetched = [name for name in self.files if any(fnmatch(name, p) for p in allow_patterns)]
        return str(self.cache)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    fake = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return fake


def http_error(kind: type[Exception]) -> Exception:
    """These cannot be made without a response, whose class depends on the library's version."""
    return kind.__new__(kind)


def test_paths_and_the_built_in_model(tmp_path: Path) -> None:
    assert GGUFFile(hub.resolve(None)).metadata["general.name"] == "shakespeare"
    assert hub.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (GGUFS, "", ["model.Q4_K_M.gguf"]),
        (GGUFS, ":Q4_K_M", ["model.Q4_K_M.gguf"]),
        (GGUFS, ":iq4_xs", ["model-IQ4_XS.gguf"]),
        (GGUFS, ":Q8_0", GGUFS[-2:]),
        ([name for name in GGUFS if "Q4" not in name], "", GGUFS[-2:]),
        (FOLDER + GGUFS, ":Q4_K_S", ["model-Q4_K_S.gguf"]),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], ":UD-Q4_K_XL", ["m-UD-Q4_K_XL.gguf"]),
        (["m.q4_k_m.gguf", "other.q4_k_m.gguf"], ":other.Q4_K_M", ["other.q4_k_m.gguf"]),
    ],
)
def test_a_gguf_file_is_chosen(fake: Hub, files: list[str], quant: str, chosen: list[str]) -> None:
    fake.files = files
    assert hub.resolve("org/name" + quant) == fake.cache / chosen[0]
    assert fake.fetched == chosen


@pytest.mark.parametrize("files", [FOLDER, FOLDER + GGUFS])
def test_a_folder_is_taken_whole_but_for_other_forms_of_the_weights(fake: Hub, files: list[str]) -> None:
    fake.files = files
    assert hub.resolve("org/name") == fake.cache
    assert fake.fetched == [FOLDER[0], *FOLDER[2:4], *FOLDER[6:]]


def test_offline_the_cache_serves(fake: Hub) -> None:
    fake.error = errors.OfflineModeIsEnabled("offline")
    with pytest.raises(
        ModelError, match=r"org/name: no such path; the hub cannot be reached \(offline\) and .* not in"
    ):
        hub.resolve("org/name")
    (fake.cache / "Q8_0").mkdir(parents=True)
    for name in GGUFS[-2:]:
        (fake.cache / name).touch()
    assert hub.resolve("org/name") == fake.cache / GGUFS[-2]
    with pytest.raises(ModelError, match=r"no GGUF file for Q4_0; it holds Q8_0/model-Q8_0-00001-of-00002.gguf, "):
        hub.resolve("org/name:Q4_0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"error": http_error(errors.RepositoryNotFoundError)}, "no such path, and no such repository"),
        ({"error": http_error(errors.GatedRepoError)}, "access is restricted; .* set HF_TOKEN"),
        ({"error": errors.HFValidationError("bad name")}, "the download failed: bad name"),
        ({"files": GGUFS, "download_error": http_error(errors.GatedRepoError)}, "access is restricted"),
        ({"files": GGUFS, "download_error": OSError("disk full")}, "the download failed: disk full"),
        ({"files": ["README.md"]}, "has no safetensors or GGUF model; it holds README.md"),
        ({"files": []}, "it holds nothing"),
    ],
)
def test_what_cannot_be_fetched(fake: Hub, change: dict[str, Any], reason: str) -> None:
    vars(fake).update(change)
    with pytest.raises(ModelError, match=f"org/name: .*{reason}"):
        hub.resolve("org/name")


@pytest.mark.parametrize(
    "model", ["", "name", "./org/name", "../name", "a/b/c", "org/name.gguf", "org/na me", "x" * 5000, "a\0b"]
)
def test_what_is_neither_a_path_nor_an_id(fake: Hub, model: str) -> None:
    with pytest.raises(ModelError, match=r"no such file or folder, nor a hub id|File name too long"):
        hub.resolve(model)


def test_revision_folder_and_token_reach_the_hub(fake: Hub) -> None:
    fake.files = FOLDER
    hub.resolve("org/name", "v1", "/data", "hf_x")
    assert fake.access == [
        {"revision": "v1", "token": "hf_x"},
        {"revision": "v1", "token": "hf_x", "cache_dir": "/data"},
    ]
