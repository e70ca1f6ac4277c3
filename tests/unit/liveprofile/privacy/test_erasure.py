"""The order of an erasure, and its proof."""

from __future__ import annotations

import orjson
import pytest

from liveprofile.errors import InputError
from liveprofile.privacy.erase import KEPT, LISTS_OF_KEYS, Erasure
from liveprofile.privacy.erase_users import ErasedTables
from liveprofile.privacy.erasure_proof import proof_line, user_digest, verify_line
from liveprofile.privacy.places import TABLES

KEY = "k" * 32
DONE = Erasure({"user_profile": 1, "risk_flag": 3}, {})


def test_tables_that_list_keys_of_others_come_last() -> None:
    tables = ErasedTables.of()
    order = [*tables.own, *tables.whole, *tables.lists]
    assert set(order) == TABLES.keys() - KEPT.keys() and len(order) == len(set(order))
    assert tuple(order[-len(LISTS_OF_KEYS) :]) == LISTS_OF_KEYS
    for table, listed_in in (
        ("risk_score_by_hour", "risk_score_hours"),
        ("risk_flag_by_day", "risk_flag"),
        ("flag_state", "risk_case"),
        ("alert_handled", "risk_case"),
        ("segment_member", "user_segment"),
        ("segment_member", "segment_change"),
    ):
        assert order.index(table) < order.index(listed_in)


def test_a_proof_names_no_user_and_verifies() -> None:
    line = proof_line(KEY, "customer-42", "liveprofile", 1_767_605_700_000, DONE)
    assert b"customer-42" not in line
    fields = verify_line(KEY, line)
    assert fields["user"] == user_digest(KEY, "customer-42") != user_digest(KEY, "customer-43")
    assert fields["rows"] == DONE.rows and fields["erased_at"] == "2026-01-05T09:35:00.000+00:00"


def test_a_changed_proof_or_another_key_is_refused() -> None:
    line = proof_line(KEY, "customer-42", "liveprofile", 1_767_605_700_000, DONE)
    changed = orjson.loads(line)
    changed["rows"]["risk_flag"] = 4
    for key, text in ((KEY, orjson.dumps(changed)), ("x" * 32, line)):
        with pytest.raises(InputError, match="the signature is wrong"):
            verify_line(key, text)
    for text in (b"", b"[]", b"{}"):
        with pytest.raises(InputError, match="no line of a proof"):
            verify_line(KEY, text)
