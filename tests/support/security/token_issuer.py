"""An identity provider on loopback that issues tokens for client credentials (RFC 6749, 4.4)."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from stack.state import LOOPBACK, free_ports
from tests.support.security.certificates import openssl

AUDIENCE = "kafka"
CLIENT_ID = "liveprofile"
CLIENT_SECRET = "a secret: 50% \"quoted\" \\ 'x'"
SCOPE = "profiles"
LIFETIME_S = 300


class TokenIssuer:
    """Signs tokens with an RSA key of its own (RS256)."""

    def __init__(self, folder: Path):
        [self.port] = free_ports(1)
        self._key_file = folder / "issuer.key.pem"
        openssl("genrsa", "-out", str(self._key_file), "2048")
        modulus = openssl("rsa", "-in", str(self._key_file), "-noout", "-modulus")
        self.jwks = {
            "keys": [
                {
                    "kty": "RSA",
                    "kid": "1",
                    "use": "sig",
                    "alg": "RS256",
                    "n": _base64(bytes.fromhex(modulus.decode().strip().partition("=")[2])),
                    "e": _base64((65_537).to_bytes(3)),
                }
            ]
        }

    @property
    def token_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/token"

    @property
    def jwks_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/jwks"

    def token(self) -> str:
        now_s = int(time.time())
        claims = {
            "sub": CLIENT_ID,
            "aud": AUDIENCE,
            "scope": SCOPE,
            "iat": now_s,
            "exp": now_s + LIFETIME_S,
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": "1"}
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        sign = ("dgst", "-sha256", "-sign", str(self._key_file))
        return f"{signed}.{_base64(openssl(*sign, content=signed.encode()))}"


@contextmanager
def serve(issuer: TokenIssuer) -> Iterator[None]:
    """Serves the token endpoint, which requires the client's credentials, and the public key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, issuer.jwks)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            credentials = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
            if self.headers["authorization"] != f"Basic {credentials}":
                self._send(401, {"error": "invalid_client"})
            elif (form["grant_type"], form["scope"]) != (["client_credentials"], [SCOPE]):
                self._send(400, {"error": "invalid_request"})
            else:
                token = {"access_token": issuer.token(), "token_type": "Bearer"}
                self._send(200, token | {"expires_in": LIFETIME_S, "scope": SCOPE})

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Suppresses the log."""

    with ThreadingHTTPServer((LOOPBACK, issuer.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
