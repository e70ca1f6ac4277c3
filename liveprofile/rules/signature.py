"""Signatures of the records of risk-rules: HMAC-SHA256 with the secret of `rules_signing_key`.

A signature covers topic, key, value and signing time, so a record of another topic, another rule or
another time cannot take its place. The time lets readers recognise a copy of an older record
(udfs/rules_feed.py); it is a header, because a record that removes a rule has no value.
"""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE_HEADER = "signature"
SIGNED_MS_HEADER = "signed-ms"
FORMAT = b"liveprofile-rule-1"


class SignatureError(Exception):
    """The record is not signed with this key."""


class RuleSigner:
    """Signs and verifies the records of one topic. key: the shared secret."""

    def __init__(self, key: str, topic: str):
        self._key, self._topic = key.encode(), topic.encode()

    def headers(self, rule_id: bytes, value: bytes | None, signed_ms: int) -> dict[str, str]:
        """The headers of a record; a value of None removes the rule."""
        return {
            SIGNED_MS_HEADER: str(signed_ms),
            SIGNATURE_HEADER: self._signature(rule_id, value, str(signed_ms).encode()),
        }

    def verify(self, rule_id: bytes, value: bytes | None, headers: dict[str, bytes]) -> int:
        """Returns the signing time in milliseconds. Raises SignatureError."""
        if SIGNATURE_HEADER not in headers:
            raise SignatureError("the record is not signed")
        signed_ms = headers.get(SIGNED_MS_HEADER, b"")
        expected = self._signature(rule_id, value, signed_ms).encode()
        if not hmac.compare_digest(expected, headers[SIGNATURE_HEADER]):
            raise SignatureError("the signature is wrong")
        return int(signed_ms)

    def _signature(self, rule_id: bytes, value: bytes | None, signed_ms: bytes) -> str:
        parts = [FORMAT, self._topic, rule_id, signed_ms, *([] if value is None else [value])]
        # Lengths make the parts unambiguous: no two different records give the same text.
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
