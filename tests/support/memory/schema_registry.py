"""A server with the documented REST API of Confluent's schema registry, in memory."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.http_server import http_server

USER, PASSWORD = "decoder", "s3cret:with colon"
_AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class RegistryServer:
    """Schemas by id. `status`: answered to every request, if set."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self.url = ""

    def register(self, schema: Any, kind: str = "AVRO") -> int:
        """Returns the id."""
        number = len(self.schemas) + 1
        answer: dict[str, Any] = {
            "schema": schema if isinstance(schema, str) else json.dumps(schema)
        }
        if kind != "AVRO":  # the API leaves it out for Avro
            answer["schemaType"] = kind
        self.schemas[number] = answer
        return number

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        self.requests.append(path)
        if self.status is not None:
            return self.status, {"error_code": self.status * 100 + 1, "message": "Error"}
        if authorization not in (None, _AUTHORIZATION):
            return 401, {"error_code": 40101, "message": "Unauthorized"}
        match path.strip("/").split("/"):
            case ["schemas", "ids", number] if int(number) in self.schemas:
                return 200, self.schemas[int(number)]
            case ["schemas", "ids", _]:
                return 404, {"error_code": 40403, "message": "Schema not found"}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


@contextmanager
def registry_server() -> Iterator[RegistryServer]:
    state = RegistryServer()
    with http_server(state.answer) as state.url:
        yield state
