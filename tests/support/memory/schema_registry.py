"""A server with the documented REST API of Confluent's schema registry, in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

USER, PASSWORD = "decoder", "s3cret:with colon"
_AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class RegistryServer:
    """Schemas by id, and by subject and version. `status`: answered to every request, if set."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[tuple[str, int], int] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self.url = ""

    def register(
        self, subject: str, schema: Any, kind: str = "AVRO", references: list[dict] | None = None
    ) -> int:
        """Returns the id."""
        number = len(self.schemas) + 1
        answer: dict[str, Any] = {
            "schema": schema if isinstance(schema, str) else json.dumps(schema)
        }
        if kind != "AVRO":  # the API leaves it out for Avro
            answer["schemaType"] = kind
        if references:
            answer["references"] = references
        self.schemas[number] = answer
        version = 1 + sum(name == subject for name, _ in self.subjects)
        self.subjects[subject, version] = number
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
            case ["subjects", subject, "versions", version]:
                key = (unquote(subject), int(version))
                if key not in self.subjects:
                    return 404, {"error_code": 40401, "message": "Subject not found."}
                number = self.subjects[key]
                found = {"subject": key[0], "version": key[1], "id": number}
                return 200, found | self.schemas[number]
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


@contextmanager
def registry_server() -> Iterator[RegistryServer]:
    state = RegistryServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = state.answer(self.path, self.headers["authorization"])
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Suppresses the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
