"""Alerts as signed HTTP requests, by the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import time
from urllib.parse import urlsplit

import urllib3

from liveprofile.alerts.consumer.alert import Alert
from liveprofile.alerts.consumer.delivery import Refused
from liveprofile.errors import ConfigError

SECRET_VARIABLE = "LIVEPROFILE_WEBHOOK_SECRET"
SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)  # as the specification asks
TIMEOUT_S = 15.0
TOO_MANY_REQUESTS = 429


class WebhookFailed(Exception):
    """The receiver was away, slow or busy: worth another attempt."""


class Webhook:
    """A handler that POSTs the alert as JSON (CloudEvents, structured) and wants an answer 2xx.

    `webhook-id` is the alert's id, the same for every attempt: receivers drop copies by it.
    Another attempt follows 5xx, 429, a time-out and a broken connection; any other answer,
    redirects included, refuses the alert for good.

    secret: base64 with or without the prefix whsec_. Raises ConfigError for a URL that is neither
    https nor of this machine, and for a bad secret.
    """

    name = "webhook"

    def __init__(self, url: str, secret: str, timeout_s: float = TIMEOUT_S):
        self._url, self._key = _checked_url(url), read_secret(secret)
        # Retries are the consumer's; a redirect would carry the alert to somewhere unchecked.
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(total=timeout_s), retries=False, maxsize=8
        )

    @classmethod
    def from_environment(cls, url: str) -> Webhook:
        """With the secret of the variable LIVEPROFILE_WEBHOOK_SECRET. Raises ConfigError."""
        secret = os.environ.get(SECRET_VARIABLE)
        if not secret:
            raise ConfigError(f"{SECRET_VARIABLE} is not set: the secret that signs webhooks")
        return cls(url, secret)

    def handle(self, alert: Alert) -> None:
        """Raises Refused or WebhookFailed."""
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
            status = self._http.request("POST", self._url, body=body, headers=headers).status
        except urllib3.exceptions.HTTPError as error:
            raise WebhookFailed(f"{type(error).__name__}") from None
        if 200 <= status < 300:
            return
        if status >= 500 or status == TOO_MANY_REQUESTS:
            raise WebhookFailed(f"answer {status}")
        raise Refused(f"answer {status}")


def sign(key: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The header webhook-signature: `v1,` and HMAC-SHA256 of id, time and body in base64."""
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def read_secret(secret: str) -> bytes:
    """The key that a secret stands for. Raises ConfigError, which never repeats the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("the webhook's secret is not base64") from None
    least, most = SECRET_BYTES
    if not least <= len(key) <= most:
        raise ConfigError(f"the webhook's secret has {len(key)} bytes, not {least} to {most}")
    return key


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"webhook URL {url!r}: {error}") from None
    if not host or parts.scheme not in ("https", "http"):
        raise ConfigError(f"webhook URL {url!r}: must be https://...")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(f"webhook URL {url!r}: only https leaves this machine")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
