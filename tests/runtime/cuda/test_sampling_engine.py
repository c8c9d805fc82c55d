"""Sampling on the device within the engine: a step is planned while the one before runs, and a request's tokens are
those that it gets alone, and by the native sampler."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.fake import request
from tests.engine.test_real_model import run
from tests.models.tiny import MODELS, PROMPT
from tests.runtime.cuda import models
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.request import EngineRequest
from trivet.runtime.cuda import runtime
from trivet.runtime.cuda.sampler import DeviceSampler
from trivet.sampling.params import TGI_STAGES

CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": 2},
    "drawn": {"temperature": 0.9, "seed": 5, "top_p": 0.9, "logprobs": 0},
    "penalties": {"temperature": 0.8, "seed": 1, "repetition_penalty": 1.4, "presence_penalty": 0.5},
    "tgi": {"temperature": 0.7, "repetition_penalty": 1.2, "watermark": True, "stages": TGI_STAGES},
    "dry": {"temperature": 0, "dry_multiplier": 0.8, "dry_allowed_length": 1},
    "bad words": {"temperature": 0, "bad_words": [[7], *([i, i + 1] for i in range(40))]},
    "mirostat": {"temperature": 0.9, "mirostat": 2, "mirostat_tau": 3.0, "seed": 2},
    "adaptive": {"adaptive_target": 0.4, "seed": 3, "stages": ("adaptive_p",)},
    "typical": {"typical_p": 0.7, "xtc_probability": 0.5, "xtc_threshold": 0.02, "logprobs": 1},
    "infill": {"stages": ("infill", "temperature"), "temperature": 0.7, "seed": 8, "logprobs": 1},
    "prompt": {"temperature": 0.9, "prompt_logprobs": 1, "logprobs": 3, "logprobs_mode": "processed"},
}


def requests() -> list[EngineRequest]:
    return [
        request(PROMPT[i : i + 3 + i % 2], name, max_tokens=3, **{"seed": i} | fields)
        for i, (name, fields) in enumerate(CHOICES.items())
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tiny = next(m for m in MODELS if m.name == "qwen3")
    return str(tiny.write_folder(tmp_path_factory.mktemp("model") / "qwen3"))


def engine(model: str) -> Engine:
    settings = models.SMALL | {"max_model_len": 32, "max_num_seqs": 12, "max_num_batched_tokens": 12}
    return Engine(EngineConfig(model=model, **settings, num_blocks=32), models.load)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
@pytest.mark.usefixtures("plain_kernels")
def test_company_changes_no_token(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    natively = engine(model)
    expected = {name: result.tokens for each in requests() for name, result in run(natively, [each]).items()}
    monkeypatch.setattr(runtime, "DeviceSampler", DeviceSampler)
    on_device = engine(model)
    together = run(on_device, requests())
    assert {name: result.tokens for name, result in together.items()} == expected
    for each in requests():
        if each.params.logprobs is not None:
            assert run(on_device, [each]) == {each.request_id: together[each.request_id]}
