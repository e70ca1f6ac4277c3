"""An HTTP server that answers as Flink's REST interface would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.http_server import http_server


@contextmanager
def flink_rest(answers: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yields the URL. answers: by path, in order; the last one is repeated. Other paths: 404."""
    left = {path: list(each) for path, each in answers.items()}

    def answer(path: str, _: str | None) -> tuple[int, Any]:
        if (known := left.get(path)) is None:
            return 404, {"errors": [f"unknown {path}"]}
        return 200, known.pop(0) if len(known) > 1 else known[0]

    with http_server(answer) as url:
        yield url
