"""Records of the topic risk-rules."""

from __future__ import annotations

from liveprofile.kafka.records import Record
from liveprofile.rules.definitions import RuleSigner
from tests.support.rows.rule_examples import rule


def raw_rule_record(rule_id: str, value: bytes | None, offset: int = 0) -> Record:
    """A record with any value; None: a tombstone."""
    return Record("risk-rules", 0, offset, 0, rule_id.encode(), value, {})


def rule_record(rule_id: str, **changes: object) -> Record:
    """A record of a valid rule; `changes` overrides the rule's fields."""
    return raw_rule_record(rule_id, rule(id=rule_id, **changes).model_dump_json().encode())


def signed(record: Record, signer: RuleSigner, signed_ms: int) -> Record:
    headers = signer.headers(record.key, record.value, signed_ms)
    return record._replace(headers={name: value.encode() for name, value in headers.items()})
