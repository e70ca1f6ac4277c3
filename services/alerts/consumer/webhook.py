"""Sends alerts as signed HTTP requests, by the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import re
import ssl
import time
from typing import Self
from urllib.parse import urlsplit

from liveprofile.errors import ConfigError
from liveprofile.loopback import is_loopback
from services.alerts.consumer.alert import Alert
from services.alerts.consumer.loop import AlertRefusedError

SECRET_VARIABLE = "LIVEPROFILE_WEBHOOK_SECRET"
SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)  # minimum and maximum of the specification
TIMEOUT_S = 15.0
TOO_MANY_REQUESTS = 429


class WebhookFailedError(Exception):
    """The receiver was unreachable, slow or busy. The consumer retries."""


class Webhook:
    """A handler that POSTs the alert as JSON (CloudEvents, structured) and expects a 2xx status.

    `webhook-id` is the alert's id, the same for every attempt, so that receivers can deduplicate.
    Only the status of the response is read. 5xx, 429, time-outs, broken connections and responses
    that are not HTTP are retried; any other status, redirects included, makes the alert a dead
    letter.

    secret: base64 with or without the prefix whsec_. timeout_s: for a whole attempt. tls: None
    means the system's trusted certificates. Raises ConfigError for a URL that is neither https nor
    on the local host, and for an invalid secret.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        secret: str,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ):
        self._url, self._key = _validate_url(url), decode_secret(secret)
        self._timeout_s, self._tls = timeout_s, tls or ssl.create_default_context()

    @classmethod
    def from_environment(cls, url: str) -> Self:
        """Uses the secret of the variable LIVEPROFILE_WEBHOOK_SECRET. Raises ConfigError."""
        secret = os.environ.get(SECRET_VARIABLE)
        if not secret:
            raise ConfigError(f"{SECRET_VARIABLE} is not set: it holds the webhook signing secret")
        return cls(url, secret)

    def handle(self, alert: Alert) -> None:
        """Raises AlertRefusedError or WebhookFailedError."""
        body = alert.to_json()
        timestamp_s = int(time.time())
        headers = {
            "content-type": "application/cloudevents+json",
            "user-agent": "liveprofile",
            "webhook-id": alert.id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": sign(self._key, alert.id, timestamp_s, body),
        }
        try:
            status = asyncio.run(self._post(body, headers))
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise WebhookFailedError(type(error).__name__) from None
        if 200 <= status < 300:
            return
        if status >= 500 or status == TOO_MANY_REQUESTS:
            raise WebhookFailedError(f"status {status}")
        raise AlertRefusedError(f"status {status}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        """Returns the status of the response.

        The deadline is for all of it, from the connection to the end of the headers, whatever the
        receiver sends: time-outs of single reads would let it send a byte at a time for ever. Only
        the look-up of the host name has time-outs of its own, those of the system.
        """
        parts = urlsplit(self._url)
        tls = self._tls if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"host": parts.netloc.rpartition("@")[2], "connection": "close", **headers}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        request = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body
        async with asyncio.timeout(self._timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
            try:
                writer.write(request)
                await writer.drain()
                status = 100
                while status < 200:  # an interim response
                    head = await reader.readuntil(b"\r\n\r\n")  # at most 64 KiB
                    if (found := re.match(rb"HTTP/1\.\d (\d{3})[ \r]", head)) is None:
                        raise ConnectionError("the response is not HTTP")
                    status = int(found[1])
                return status
            finally:
                writer.transport.abort()


def sign(key: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Returns the header webhook-signature: `v1,` and the base64 HMAC-SHA256 of id, time, body."""
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def decode_secret(secret: str) -> bytes:
    """Returns the key of a base64 secret. Raises ConfigError, which never contains the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("the webhook secret is not base64") from None
    minimum, maximum = SECRET_BYTES
    if not minimum <= len(key) <= maximum:
        raise ConfigError(f"the webhook secret has {len(key)} bytes, not {minimum} to {maximum}")
    return key


def _validate_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"webhook URL {url!r}: {error}") from None
    if not host or parts.scheme not in ("https", "http"):
        raise ConfigError(f"webhook URL {url!r}: must be https://...")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"webhook URL {url!r}: must be ASCII; percent-encode other characters")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(f"webhook URL {url!r}: must use https unless the host is local")
    return url
