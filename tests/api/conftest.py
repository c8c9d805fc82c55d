import functools

import pytest

from tests.api.scripted import ScriptedClient, write_byte_tokenizer
from trivet.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ suffix }}"
)


@pytest.fixture(scope="package", autouse=True)
def tokenizers_are_loaded_once():
    """For this package only: elsewhere a file may change between two loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "load", functools.cache(Tokenizer.load))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """A folder with the byte tokenizer, and no weights."""
    folder = tmp_path_factory.mktemp("model")
    write_byte_tokenizer(folder, TEMPLATE)
    return str(folder)


@pytest.fixture
def script(monkeypatch):
    """Makes every LLM of a test play these scripts; returns their one client."""

    def play(*scripts, **options) -> ScriptedClient:
        client = ScriptedClient(*scripts, **options)

        def load(config) -> ScriptedClient:
            if client.limit is None:
                client.limit = config.max_num_seqs + config.max_queue
            return client

        monkeypatch.setattr("trivet.engine.inprocess.InProcessClient", load)
        return client

    return play
