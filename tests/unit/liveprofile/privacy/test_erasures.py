"""What is erased, of whom, and the records that say so."""

import hmac
import random

import numpy as np
import orjson
import pytest

from liveprofile.privacy.erasures import ErasureTable, first_window_ms, later_flags
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.settings import TOPICS, load
from liveprofile.units import DAY_MS
from liveprofile.wire.entity_lists import hash_code
from offline.erasure.erase import Erasure
from services.privacy.erasure_log import (
    BY_HAND,
    FORMAT,
    ErasureRun,
    PlaceStatus,
    is_done,
    place_statuses,
    proof_line,
    user_digest,
)


def test_the_latest_erasure_of_a_user_counts() -> None:
    erasures = ErasureTable()
    for before_ms in (5, 9, 7):
        erasures.put("a", before_ms)
    assert "a" in erasures and "b" not in erasures and len(erasures) == 1
    assert [erasures.is_erased("a", time_ms) for time_ms in (0, 8, 9)] == [True, True, False]
    assert erasures.before_ms("a") == 9 and not erasures.is_erased("b", 0)
    erasures.put("a", None)
    assert erasures.before_ms("a") is None and not erasures.is_erased("a", 0)


@pytest.mark.parametrize("seed", range(5))
def test_events_in_lists_are_erased_by_hash_and_time(seed: int) -> None:
    rng, erasures = random.Random(seed), ErasureTable()
    users = [f"user-{number}" for number in range(400)]
    erased = {user: rng.randrange(100) for user in rng.sample(users, 40)}
    for user, before_ms in erased.items():
        erasures.put(user, before_ms)
    events = [(rng.choice(users), rng.randrange(100)) for _ in range(2_000)]
    codes = np.array([hash_code(user) for user, _ in events], np.int32)
    found = erasures.erased(codes, np.array([time_ms for _, time_ms in events], np.int64))
    assert found.tolist() == [time_ms < erased.get(user, 0) for user, time_ms in events]
    assert found.sum() > 20
    assert len(erasures.erased(np.empty(0, np.int32), np.empty(0, np.int64))) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a", 97), ("ab", 3_105), ("zzzzzz", 685_785_664), ("polygenelubricants", -(2**31))],
)
def test_hash_is_that_of_java_without_its_sign(text: str, expected: int) -> None:
    assert hash_code(text) == expected


@pytest.mark.parametrize(
    ("start_ms", "before_ms", "expected"),
    [(1_000, 1_000, 1_000), (1_000, 901, 1_000), (1_000, 900, 900), (1_000, 350, 400)],
)
def test_first_window_after_an_erasure_begins_at_or_after_it(
    start_ms: int, before_ms: int, expected: int
) -> None:
    assert first_window_ms(start_ms, before_ms, 100) == expected


def test_flags_of_later_rows_stay() -> None:
    old, new = ("a", RowPosition(40)), ("a", RowPosition(90))
    past = PastFlags(RowPosition(50), frozenset("a"), frozenset({old, new}))
    assert later_flags(past, 40) == past
    assert later_flags(past, 50) == past._replace(raised=frozenset({new}))
    assert later_flags(past, 51) == PastFlags(raised=frozenset({new}))


KEY = "k" * 32
DONE = Erasure({"user_profile": 1, "risk_flag": 3}, {})


def test_a_proof_names_no_user_and_is_signed() -> None:
    line = proof_line(KEY, "customer-42", "liveprofile", 1_767_605_700_000, DONE)
    assert b"customer-42" not in line
    fields = orjson.loads(line)
    assert fields["user"] == user_digest(KEY, "customer-42") != user_digest(KEY, "customer-43")
    assert fields["rows"] == DONE.rows and fields["erased_at"] == "2026-01-05T09:35:00.000+00:00"
    signature = fields.pop("signature")
    signed = FORMAT.encode() + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    assert signature == hmac.new(KEY.encode(), signed, "sha256").hexdigest()


BEFORE_MS = 1_767_605_700_000


def statuses(
    deletion: ErasureRun | None = None, after_days: float = 0, **topics: int
) -> dict[str, PlaceStatus]:
    settings = load(topics=topics)
    now_ms = BEFORE_MS + round(after_days * DAY_MS)
    return {each.place: each for each in place_statuses(BEFORE_MS, deletion, settings, now_ms)}


def test_every_topic_with_users_has_a_status() -> None:
    found = statuses()
    settings = load()
    names = {
        f"topic {getattr(settings.topics, name)}" for name, each in TOPICS.items() if each.limit
    }
    assert {name for name in found if name.startswith("topic ")} == names
    assert set(BY_HAND) <= found.keys()
    assert not any(each.done for each in found.values())


@pytest.mark.parametrize(("after_days", "done"), [(13.9, False), (14.1, True)])
def test_a_topic_is_clear_after_its_retention_and_a_segment(after_days: float, done: bool) -> None:
    topic = statuses(after_days=after_days)["topic behavior-events"]
    assert topic.clear_ms == BEFORE_MS + 14 * DAY_MS and topic.done is done


def test_tables_are_clear_when_the_rows_of_this_erasure_are_deleted() -> None:
    deleted = ErasureRun(BEFORE_MS, BEFORE_MS + 5, {})
    assert is_done(deleted, BEFORE_MS) and not is_done(deleted, BEFORE_MS + 1)
    assert not is_done(None, BEFORE_MS)
    left = deleted._replace(remaining={"risk_score_hours": 1})
    assert not is_done(left, BEFORE_MS)
    assert statuses(deleted)["tables"].clear_ms == BEFORE_MS + 5
    assert "risk_score_hours 1" in statuses(left)["tables"].note
    older = deleted._replace(before_ms=BEFORE_MS - 1)
    assert not statuses(older)["tables"].done
