"""HTTP servers on loopback that answer with JSON, one of them as Flink would."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Path without its query, and the header `authorization` -> status and JSON.
Answer = Callable[[str, str | None], tuple[int, Any]]


@contextmanager
def http_server(answer: Answer) -> Iterator[str]:
    """Yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answer(self.path.partition("?")[0], self.headers["authorization"])
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Suppresses the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def flink_rest(answers: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Flink's REST interface; yields its URL.

    answers: by path, in order; the last one is repeated. Other paths: 404.
    """
    left = {path: list(each) for path, each in answers.items()}

    def answer(path: str, _: str | None) -> tuple[int, Any]:
        if (known := left.get(path)) is None:
            return 404, {"errors": [f"unknown {path}"]}
        return 200, known.pop(0) if len(known) > 1 else known[0]

    with http_server(answer) as url:
        yield url
