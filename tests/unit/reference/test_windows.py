"""Classes of records (late, duplicate, ...) and the watermark in the reference."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings

from tests.reference.profile import run_reference
from tests.reference.units import HOUR_MS
from tests.reference.validation import REASONS
from tests.reference.windows import Record
from tests.support.streams.seeded import with_faults
from tests.support.streams.strategies import RECORD_MS, START_MS, behaviour_stream
from tests.unit.reference.examples import (
    SETTINGS,
    WINDOW_MS,
    event,
    records,
)


def test_event_of_closed_window_is_late() -> None:
    last_ms = START_MS + WINDOW_MS - 1
    found = run_reference(
        records(
            event(event_id="a", event_time=START_MS),
            event(event_id="b", event_time=last_ms + 29_999),
            event(event_id="c", event_time=START_MS),  # behind the watermark, window open
            event(event_id="d", event_time=last_ms + 30_000),
            event(event_id="e", event_time=last_ms),
            event(event_id="f", event_time=last_ms + 1),
            event(event_id="e", event_time=last_ms + 1),  # duplicate of a late event
        ),
        SETTINGS,
    )
    assert found.used == {(0, 0), (0, 1), (0, 2), (0, 3), (0, 5)}
    assert found.late == {(0, 4)} and found.duplicates == {(0, 6)}
    assert found.watermark_ms == last_ms
    assert set(found.closed()) == {("u", last_ms + 1)}


def test_duplicates_advance_the_watermark_and_invalid_times_do_not() -> None:
    last_ms = START_MS + WINDOW_MS - 1
    found = run_reference(
        records(
            event(event_id="a"),
            event(event_id="a", event_time=last_ms + 30_000),
            event(event_id="b"),
            event(event_id="c", event_time="never"),
            event(event_id="c", event_time=last_ms + 1),
        ),
        SETTINGS,
    )
    assert found.used == {(0, 0), (0, 4)} and found.late == {(0, 2)}
    assert found.duplicates == {(0, 1)} and found.rejected == {(0, 3): ("BAD_TIME", "")}


def test_slowest_partition_holds_back_the_watermark() -> None:
    closing_ms = START_MS + WINDOW_MS + 30_000 - 1
    fast = records(event(event_id="a"), event(event_id="b", event_time=START_MS + HOUR_MS))
    slow = records(event(event_id="c", event_time=closing_ms), partition=1)
    behind = [fast[0]._replace(partition=2, value=json.dumps(event(event_id="d")).encode())]
    found = run_reference(fast[:1] + slow + fast[1:] + behind, SETTINGS)
    assert found.watermark_ms == START_MS - 30_000


def test_only_the_own_partition_makes_an_event_late() -> None:
    ahead_ms = START_MS + WINDOW_MS + 30_000
    ahead = records(event(event_id="a", event_time=ahead_ms), event(event_id="b"))
    other = records(event(event_id="c"), partition=1)
    for order in (ahead + other, other + ahead):
        assert run_reference(order, SETTINGS).late == {(0, 1)}


def test_rejected_record_with_valid_time_advances_the_watermark() -> None:
    ahead_ms = START_MS + WINDOW_MS + 30_000
    for fault, late in (
        ({"event_type": "buy"}, {(0, 2)}),
        ({"event_id": ""}, {(0, 2)}),
        ({"price": -1}, {(0, 2)}),
        ({"event_time": str(ahead_ms) + "x"}, set()),
        ({"event_time": 4_070_908_800_000}, set()),
    ):
        rejected = event(event_id="b", event_time=ahead_ms) | fault
        found = run_reference(records(event(event_id="a"), rejected, event(event_id="c")), SETTINGS)
        assert set(found.rejected) == {(0, 1)} and found.late == late


@pytest.mark.parametrize("suffix", ["x", "{}", "]", "}", ',"a":1', ",1", "\x00", "\x1d", "\x1f"])
def test_event_with_trailing_text_claims_no_event_id(suffix: str) -> None:
    stream = records(event(event_id="a"), event(event_id="a"), event(event_id="a"))
    stream[0] = stream[0]._replace(value=stream[0].value + b" " + suffix.encode())
    found = run_reference(stream, SETTINGS)
    assert found.rejected == {(0, 0): ("NOT_JSON", "")}
    assert found.used == {(0, 1)} and found.duplicates == {(0, 2)}
    # Its event_time is readable, so it advances the watermark.
    assert (
        found.watermark_ms == run_reference(stream[:1], SETTINGS).watermark_ms == START_MS - 30_000
    )


def test_window_takes_events_up_to_its_limits() -> None:
    chars = len(json.dumps(event(event_id="a")))
    stream = records(*(event(event_id=name) for name in "abacd"))
    for limits, detail in (
        ({"window_events": 2}, "events"),
        ({"window_chars": 2 * chars}, "characters"),
    ):
        found = run_reference(
            stream,
            SimpleNamespace(
                **vars(SETTINGS) | {"limits": SimpleNamespace(**vars(SETTINGS.limits) | limits)}
            ),
        )
        assert (found.used, found.duplicates) == ({(0, 0), (0, 1)}, {(0, 2)})
        assert found.rejected == dict.fromkeys([(0, 3), (0, 4)], ("TOO_MANY", detail))


def test_given_late_positions_replace_the_watermark() -> None:
    found = run_reference(
        records(event(event_id="a"), event(event_id="b")), SETTINGS, late={(0, 1)}
    )
    assert (found.used, found.late) == ({(0, 0)}, {(0, 1)})
    assert next(iter(found.profiles.values())).events == 1


@settings(max_examples=60, deadline=None)
@given(behaviour_stream())
def test_every_record_has_exactly_one_class(stream: list[Record]) -> None:
    found = run_reference(stream, SETTINGS)
    classes = [set(found.rejected), found.heartbeats, found.duplicates, found.late, found.used]
    assert sum(map(len, classes)) == len(stream) == len(set().union(*classes))
    assert sum(profile.events for profile in found.profiles.values()) == len(found.used)
    assert found.closed() == found.profiles
    for (user_id, end_ms), profile in found.profiles.items():
        assert (profile.user_id, profile.window_end_ms) == (user_id, end_ms)
        assert profile.events == sum(profile.counts.values()) == len(profile.digests)
        for hours, weekdays in (profile.activity_after,):
            assert math.isclose(sum(hours), 1) and math.isclose(sum(weekdays), 1)
        for shares in (profile.affinity_before, profile.affinity_after):
            assert len(shares) <= 10 and sum(share for _, share in shares) <= 1 + 1e-9


def test_injected_faults_get_their_class() -> None:
    originals = [
        event(event_id=f"e{number}", user_id=f"u{number % 7}", event_time=START_MS + number * 1_000)
        for number in range(5_000)
    ]
    stream = with_faults(originals, seed=3)
    topic = [Record(0, index, RECORD_MS, *message) for index, message in enumerate(stream.messages)]
    found = run_reference(topic, SETTINGS)
    assert stream == with_faults(originals, seed=3) != with_faults(originals, seed=4)
    assert found.duplicates == {(0, index) for index in stream.duplicates}
    assert found.late == {(0, index) for index in stream.late}
    assert {(position[1], fault.reason) for position, fault in found.rejected.items()} == {
        (index, reason) for reason, indexes in stream.broken.items() for index in indexes
    }
    assert set(stream.broken) == set(REASONS)
    assert len(found.used) == 5_000 and 100 < stream.injected < 200
