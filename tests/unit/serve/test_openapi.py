"""schemas/openapi.json and docs/api.md: they name every route, problem and scope."""

import re
import shlex
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from serve import problems
from serve.keys import READER
from tests.support.generators import openapi
from tests.support.paths import ROOT


def test_document_is_up_to_date() -> None:
    written = openapi.FILE.read_text("utf-8")
    assert written == openapi.text(), "run `python -m tests.support.generators.openapi`"


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


PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
CURLS = re.findall(r"^curl .+$", PAGE, re.MULTILINE)
KINDS = re.compile(r'(?:ApiError|super\(\).__init__)\(\s*\d+,\s*"([a-z-]+)"')


@pytest.mark.parametrize("command", CURLS)
def test_each_curl_command_is_answered(connect: Callable[..., TestClient], command: str) -> None:
    client = connect(READER)
    key = client.headers["authorization"].removeprefix("Bearer ")
    words = shlex.split(command.replace("$KEY", key).replace("$URL", ""))[1:]
    options = list(zip(words[:-1:2], words[1:-1:2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    body = next((value for name, value in options if name == "-d"), None)
    method = "GET" if body is None else "POST"
    answer = client.request(method, words[-1], headers=headers, content=body)
    assert answer.status_code == 200, answer.text


def test_every_route_is_named() -> None:
    assert len(CURLS) >= 4
    prefixes = ("/v1/users/{user_id}/", "/health/")
    for path in openapi.document()["paths"]:
        short = path.replace("{user_id}", "{id}")
        last = "/" + path.rpartition("/")[2]
        assert short in PAGE or (path.startswith(prefixes) and f"`{last}`" in PAGE), path


def test_every_kind_of_problem_is_named() -> None:
    source = "".join(file.read_text("utf-8") for file in (ROOT / "serve").rglob("*.py"))
    kinds = set(KINDS.findall(source)) | {kind for _, kind in problems.ANSWERS.values()}
    assert {"unavailable", "unknown-user", "invalid-cursor"} <= kinds
    assert {kind for kind in kinds if kind not in PAGE} == set()
    assert problems.TYPE_PREFIX in PAGE
