"""What is documented is what is served: /openapi.json and docs/dialects.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.wire import get
from trivet.server import documentation, openapi
from trivet.server.routing import DIALECTS

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS = [(name, operation) for name, (_, operations) in DIALECTS.items() for operation in operations]


def test_the_document_is_served(url):
    for path in openapi.PATHS:
        assert get(url, path).json() == openapi.document()


def test_every_reference_leads_somewhere():
    document = openapi.document()
    schemas = document["components"]["schemas"]

    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                yield from references(item)

    found = set(references(document))
    assert found and all(name.removeprefix("#/components/schemas/") in schemas for name in found)


@pytest.mark.parametrize(("dialect", "operation"), OPERATIONS, ids=lambda value: getattr(value, "path", value))
def test_every_operation_says_what_it_does(dialect, operation):
    assert openapi.summary(operation)
    assert operation.method.lower() in openapi.document()["paths"][operation.path.replace(":path}", "}")]


def test_the_page_is_what_the_server_says():
    """Run `python -m trivet.server.documentation > docs/dialects.md` when this fails."""
    assert (DOCS / "dialects.md").read_text() == documentation.page()
