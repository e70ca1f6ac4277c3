"""Why a record cannot be decoded. The reasons are codes of docs/data-contract.md, section 2."""

from __future__ import annotations

from typing import Literal

Reason = Literal["BAD_MAGIC", "BAD_BODY", "UNKNOWN_SCHEMA", "BAD_CLOUDEVENT", "TOO_LARGE"]
MAX_DETAIL_CHARS = 200


class Undecodable(ValueError):
    """A record that goes to the rejected topic: it would fail again at each attempt."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail[:MAX_DETAIL_CHARS]
