"""docs/python.md says what the classes say."""

from pathlib import Path

from trivet.api.documentation import page

PAGE = Path(__file__).parents[2] / "docs/python.md"


def test_the_page_is_up_to_date():
    made = page()
    assert PAGE.read_text(encoding="utf-8") == made, "run `python -m trivet.api.documentation > docs/python.md`"
    for text in (
        "| `tensor_parallel_size` | `1` | refused unless `1`: there is one device, of one machine |",
        "| `gpu_memory_utilization` | `0.92` | on a GPU, the share of its memory",
        "| `enforce_eager` | `False` | on a GPU, do without CUDA graphs",
        "| `structured_outputs` | `None` | refused unless `None` |",
        "- `encode`, `embed`, `classify`, `score`, `reward`: models that embed",
    ):
        assert text in made
