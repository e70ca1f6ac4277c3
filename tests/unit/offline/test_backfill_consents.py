"""Training rows of users who do not allow training are left out."""

import pyarrow as pa

from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.privacy.erasures import ErasureTable
from offline.backfill import allowed_rows, without_users

NOW_MS = 100
ALL = dict.fromkeys(PURPOSES, True)


def rows(*pairs: tuple[str, int]) -> pa.RecordBatch:
    users, times = zip(*pairs, strict=True)
    return pa.RecordBatch.from_pydict({"user_id": list(users), "window_end_ms": list(times)})


def kept(table: ConsentTable | None, *pairs: tuple[str, int]) -> list[tuple[str, int]]:
    batch = allowed_rows(rows(*pairs), "window_end_ms", table, NOW_MS)
    return [(row["user_id"], row["window_end_ms"]) for row in batch.to_pylist()]


def test_a_row_needs_consent_at_its_time_and_now() -> None:
    table = ConsentTable(ALL)
    table.put("withdrew", [ConsentChange(50, "training", False)])
    table.put(
        "returned", [ConsentChange(50, "training", False), ConsentChange(70, "training", True)]
    )
    table.put("other", [ConsentChange(50, "marketing", False)])
    table.put("later", [ConsentChange(NOW_MS + 1, "training", False)])
    pairs = [
        (user, at)
        for user in ("withdrew", "returned", "other", "later", "silent")
        for at in (40, 60, 80)
    ]
    assert kept(table, *pairs) == [
        pair for pair in pairs if pair[0] != "withdrew" and pair != ("returned", 60)
    ]
    assert kept(ConsentTable(ALL | {"training": False}), *pairs) == []
    assert kept(None, *pairs) == pairs


def test_users_who_were_erased_at_any_time_have_no_rows() -> None:
    table = ErasureTable()
    table.put("gone", 50)
    found = without_users(rows(("gone", 40), ("kept", 40), ("gone", 60)), table)
    assert found.to_pylist() == [{"user_id": "kept", "window_end_ms": 40}]
    batch = rows(("kept", 1))
    assert without_users(batch, table) is batch
