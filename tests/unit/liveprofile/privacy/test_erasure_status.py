"""When each place is clear of an erased user."""

from __future__ import annotations

import pytest

from liveprofile.privacy.erasure_log import Deletion, is_done
from liveprofile.privacy.erasure_status import BY_HAND, PlaceStatus, place_statuses
from liveprofile.privacy.places import TOPICS
from liveprofile.settings import load
from liveprofile.units import DAY_MS

BEFORE_MS = 1_767_605_700_000


def statuses(
    deletion: Deletion | None = None, after_days: float = 0, **topics: int
) -> dict[str, PlaceStatus]:
    settings = load(topics=topics)
    now_ms = BEFORE_MS + round(after_days * DAY_MS)
    return {each.place: each for each in place_statuses(BEFORE_MS, deletion, settings, now_ms)}


def test_every_topic_with_users_has_a_status() -> None:
    found = statuses()
    settings = load()
    names = {f"topic {getattr(settings.topics, setting)}" for setting in TOPICS}
    assert {name for name in found if name.startswith("topic ")} == names
    assert set(BY_HAND) <= found.keys()
    assert not any(each.done for each in found.values())


@pytest.mark.parametrize(("after_days", "done"), [(13.9, False), (14.1, True)])
def test_a_topic_is_clear_after_its_retention_and_a_segment(after_days: float, done: bool) -> None:
    topic = statuses(after_days=after_days)["topic behavior-events"]
    assert topic.clear_ms == BEFORE_MS + 14 * DAY_MS and topic.done is done


def test_a_topic_without_a_limit_is_never_clear() -> None:
    topic = statuses(after_days=10_000, retention_ms=-1)["topic risk-alerts"]
    assert topic.clear_ms is None and not topic.done


def test_state_is_clear_after_its_time_to_live() -> None:
    found = statuses(after_days=136)
    assert found["state: open windows"].done
    assert found["state: histories, memory, lists, sums"].clear_ms == BEFORE_MS + 135 * DAY_MS
    assert found["state: histories, memory, lists, sums"].done


def test_tables_are_clear_when_the_rows_of_this_erasure_are_deleted() -> None:
    deleted = Deletion(BEFORE_MS, BEFORE_MS + 5, {})
    assert is_done(deleted, BEFORE_MS) and not is_done(deleted, BEFORE_MS + 1)
    assert not is_done(None, BEFORE_MS)
    left = deleted._replace(remaining={"risk_score_hours": 1})
    assert not is_done(left, BEFORE_MS)
    assert statuses(deleted)["tables"].clear_ms == BEFORE_MS + 5
    assert "risk_score_hours 1" in statuses(left)["tables"].note
    older = deleted._replace(before_ms=BEFORE_MS - 1)
    assert not statuses(older)["tables"].done
