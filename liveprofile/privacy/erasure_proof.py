"""The proof of an erasure: what was deleted of whom, signed, without the user id in clear text."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

import orjson

from liveprofile.errors import InputError
from liveprofile.privacy.erase import KEPT, NOT_REACHED, Erasure

FORMAT = "liveprofile-erasure-1"


def user_digest(key: str, user_id: str) -> str:
    """HMAC-SHA256 of the id (RFC 2104): only who has the key can test whether it is a user's."""
    return _mac(key, b"user\x00" + user_id.encode("utf-8", "surrogatepass"))


def proof_line(key: str, user_id: str, keyspace: str, at_ms: int, done: Erasure) -> bytes:
    """A line of JSON with a signature over all other fields."""
    fields = {
        "format": FORMAT,
        "user": user_digest(key, user_id),
        "erased_at": datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds"),
        "keyspace": keyspace,
        "rows": done.rows,
        "pending": done.pending,
        "kept": KEPT,
        "not_reached": NOT_REACHED,
    }
    return orjson.dumps(fields | {"signature": _signature(key, fields)}) + b"\n"


def verify_line(key: str, line: bytes) -> dict[str, object]:
    """The fields of a line. Raises InputError if it was not signed with the key."""
    try:
        fields = orjson.loads(line)
        signature = fields.pop("signature")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise InputError("no line of a proof") from None
    if not isinstance(signature, str) or not hmac.compare_digest(
        signature, _signature(key, fields)
    ):
        raise InputError("the signature is wrong")
    return fields


def _signature(key: str, fields: dict[str, object]) -> str:
    return _mac(key, FORMAT.encode() + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))


def _mac(key: str, text: bytes) -> str:
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
