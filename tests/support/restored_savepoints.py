"""A stream of which a savepoint holds the first part, and what must hold after the rest of it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from liveprofile.ingest.replay import closing_time_ms
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from tests.support.compare import compare_with_reference
from tests.support.compare_profiles import FROM_MODEL, Comparison
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import shop_events, to_message

WINDOW = {"length_ms": HOUR_MS, "out_of_orderness_ms": 10 * MINUTE_MS}
STEP_MS, EVENTS, USERS = 3 * MINUTE_MS, 600, 15  # EVENTS: of each part
LATE_BY_MS = 10 * DAY_MS
COPIES = 20  # of the last events before the savepoint, sent again after it
# Tests a stolen card: three purchases before the savepoint and two after it raise the flag.
TESTER, TESTER_RULE, TESTER_PURCHASES = "tester", "card_testing", (3, 2)
TIMEOUT_S = 600.0
# Kinds of differences that may come from another model, or from state that it reads and the
# revision did not keep. All others are sums and counts over the whole topic.
OF_MODEL = {
    *FROM_MODEL, *(f"column {name}" for name in FROM_MODEL), "active_rules", "curve", "embedding",
    "embedding_distance", "interests", "moved categories", "next_items", "segments",
    "share after", "share before", "surprise",
}  # fmt: skip


class Stream(NamedTuple):
    before: list[Message]
    after: list[Message]
    savepoint_ms: int  # windows that end later are open in the savepoint
    last_ms: int
    counts: dict[str, int]  # of the audit over both parts


def stream() -> Stream:
    """Two parts with duplicates, also of each other, and with late and broken events."""
    events = list(itertools.islice(shop_events(1, USERS, STEP_MS), 2 * EVENTS))
    savepoint_ms, first = events[EVENTS - 1]["event_time"], TESTER_PURCHASES[0]
    before = with_faults(
        [*events[:EVENTS], *_purchases(0, first, savepoint_ms)], 1, late_by_ms=LATE_BY_MS
    )
    after = with_faults(
        [*_purchases(first, sum(TESTER_PURCHASES), savepoint_ms), *events[EVENTS:]],
        2,
        late_by_ms=LATE_BY_MS,
    )
    copies = [to_message(event) for event in events[EVENTS - COPIES : EVENTS]]
    both = (before, after)
    return Stream(
        before.messages,
        [*copies, *after.messages],
        savepoint_ms,
        events[-1]["event_time"],
        {
            "used": len(events) + sum(TESTER_PURCHASES),
            "duplicate": COPIES + sum(len(part.duplicates) for part in both),
            "late": sum(len(part.late) for part in both),
            "rejected": sum(len(each) for part in both for each in part.broken.values()),
        },
    )


def _purchases(first: int, end: int, time_ms: int) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"{TESTER}-{number}",
            "user_id": TESTER,
            "event_type": "purchase",
            "event_time": time_ms + number,
            "amount": 1.0,
            "device_id": f"device-{TESTER}",
        }
        for number in range(first, end)
    ]


def send_rest(job: JobUnderTest, sent: Stream) -> None:
    """Sends the second part to a restored job, closes all windows and waits until it is stored."""
    job.send(sent.after)
    job.send_heartbeats(closing_time_ms(sent.last_ms, job.settings.window))
    job.wait_until_caught_up(TIMEOUT_S)
    job.wait_until_committed(TIMEOUT_S)


def is_tester_flagged(job: JobUnderTest) -> bool:
    """Whether the purchases before and after the savepoint were counted together."""
    with open_session(job.settings.cassandra) as session:
        return TESTER_RULE in {flag.rule_id for flag in queries.flags(session, TESTER)}


def compare_since_savepoint(job: JobUnderTest, sent: Stream) -> Comparison:
    """Compares the windows that were open in the savepoint, and later ones."""
    return compare_with_reference(job.settings, since_ms=sent.savepoint_ms)


def differences_of_state(comparison: Comparison) -> dict[str, list[str]]:
    """Examples by kind of the differences that no other model explains."""
    return {kind: found for kind, found in comparison.examples.items() if not _of_model(kind)}


def _of_model(kind: str) -> bool:
    return kind in OF_MODEL or kind.startswith(("alert", "flag"))
