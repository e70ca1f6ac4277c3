"""Signatures of rule records: what they cover, and which records fail verification."""

from __future__ import annotations

import pytest

from liveprofile.rules.signature import RuleSigner, SignatureError

KEY = "k" * 32
SIGNER = RuleSigner(KEY, "risk-rules")


def as_read(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in headers.items()}


@pytest.mark.parametrize("value", [b'{"id":"a"}', b"", None])
def test_signed_record_gives_its_signing_time(value: bytes | None) -> None:
    headers = as_read(SIGNER.headers(b"a", value, 1_700_000_000_000))
    assert SIGNER.verify(b"a", value, headers) == 1_700_000_000_000


@pytest.mark.parametrize(
    ("signer", "rule_id", "value", "changed"),
    [
        (RuleSigner("o" * 32, "risk-rules"), b"a", b"1", {}),
        (RuleSigner(KEY, "other-rules"), b"a", b"1", {}),
        (SIGNER, b"b", b"1", {}),
        (SIGNER, b"a", b"2", {}),
        (SIGNER, b"a", b"", {}),
        (SIGNER, b"a", None, {}),
        (SIGNER, b"a", b"1", {"signed-ms": b"6"}),
        (SIGNER, b"a", b"1", {"signed-ms": b""}),
        (SIGNER, b"a", b"1", {"signature": b""}),
        (SIGNER, b"a", b"1", {"signature": "ü".encode()}),
    ],
)
def test_change_of_any_part_is_detected(
    signer: RuleSigner, rule_id: bytes, value: bytes | None, changed: dict[str, bytes]
) -> None:
    headers = as_read(SIGNER.headers(b"a", b"1", 5))
    with pytest.raises(SignatureError, match="the signature is wrong"):
        signer.verify(rule_id, value, headers | changed)


def test_bytes_cannot_move_between_key_and_value() -> None:
    headers = as_read(SIGNER.headers(b"ab", b"c", 5))
    with pytest.raises(SignatureError):
        SIGNER.verify(b"a", b"bc", headers)


def test_removal_and_empty_value_have_different_signatures() -> None:
    headers = as_read(SIGNER.headers(b"a", None, 5))
    with pytest.raises(SignatureError):
        SIGNER.verify(b"a", b"", headers)


def test_record_without_signature_is_named_unsigned() -> None:
    with pytest.raises(SignatureError, match="not signed"):
        SIGNER.verify(b"a", b"1", {"signed-ms": b"5"})
