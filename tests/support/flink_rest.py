"""An HTTP server that answers as Flink's REST interface would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def flink_rest(answers: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yields the URL. answers: by path, in order; the last one is repeated. Other paths: 404."""
    left = {path: list(each) for path, each in answers.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            known = left.get(path)
            body = json.dumps(
                {"errors": [f"unknown {path}"]}
                if known is None
                else known.pop(0)
                if len(known) > 1
                else known[0]
            ).encode()
            self.send_response(404 if known is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
