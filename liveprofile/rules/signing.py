"""Signatures of the records of a topic of definitions, with a shared secret."""

import hashlib
import hmac

SIGNATURE_HEADER = "signature"
SIGNED_MS_HEADER = "signed-ms"
FORMAT = b"liveprofile-rule-1"


class SignatureError(Exception):
    """The record is not signed with this key."""


class DefinitionSigner:
    """Signs and verifies the records of one topic. key: the shared secret."""

    def __init__(self, key: str, topic: str):
        self._key, self._topic = key.encode(), topic.encode()

    def headers(self, definition_id: bytes, value: bytes | None, signed_ms: int) -> dict[str, str]:
        """The headers of a record; a value of None removes the definition."""
        return {
            SIGNED_MS_HEADER: str(signed_ms),
            SIGNATURE_HEADER: self._signature(definition_id, value, str(signed_ms).encode()),
        }

    def verify(self, definition_id: bytes, value: bytes | None, headers: dict[str, bytes]) -> int:
        """Returns the signing time in milliseconds. Raises SignatureError."""
        if SIGNATURE_HEADER not in headers:
            raise SignatureError("the record is not signed")
        signed_ms = headers.get(SIGNED_MS_HEADER, b"")
        expected = self._signature(definition_id, value, signed_ms).encode()
        if not hmac.compare_digest(expected, headers[SIGNATURE_HEADER]):
            raise SignatureError("the signature is wrong")
        return int(signed_ms)

    def _signature(self, definition_id: bytes, value: bytes | None, signed_ms: bytes) -> str:
        parts = [FORMAT, self._topic, definition_id, signed_ms]
        if value is not None:
            parts.append(value)
        # Lengths make the parts unambiguous: no two different records give the same text.
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
