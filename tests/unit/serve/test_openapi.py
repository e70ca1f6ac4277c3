"""The OpenAPI document that is checked in."""

from __future__ import annotations

from serve import openapi


def test_document_is_up_to_date() -> None:
    written = openapi.FILE.read_text("utf-8")
    assert written == openapi.text(), "run `python -m serve.openapi`"


def test_every_route_of_data_needs_a_key_and_has_problems() -> None:
    document = openapi.document()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if not path.startswith("/health/"):
                assert operation["security"] == [{"key": []}], path
            for status, answer in operation["responses"].items():
                if status not in ("200", "204", "304") and path != "/health/live":
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
