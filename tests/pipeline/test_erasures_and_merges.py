"""Erased users, and users under two or three ids, against a reference that knows both.

Erasures and merges are complete before the stream begins, as after a restart of the job: Flink's
state still collects each erased user's past, and later windows and events must show nothing of it.
From the merge on, events of an alias are in the windows, the state and the scores of the person.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from liveprofile.identity.merges import IdentityTable, Merge, to_record
from liveprofile.kafka import records as kafka
from liveprofile.privacy.erasures import to_record as to_erasure
from liveprofile.settings import load
from liveprofile.storage.cql import now_ms
from liveprofile.units import HOUR_MS
from liveprofile.wire.user_records import key_of
from tests.pipeline.comparison import assert_equals_reference, in_one_partition
from tests.pipeline.harness import run_profile_pipeline, run_scoring_pipeline
from tests.reference.entity_features import Event as ScoredEvent
from tests.reference.scoring import read_events
from tests.support.compare_scoring import expected_decisions, file_rules
from tests.support.memory.feeds import RecordedFeeds, RecordedMerges
from tests.support.scoring_harness import assert_matches_reference
from tests.support.streams import seeded, simulated
from tests.support.streams.shop import HOT_USER, REGULAR_USER, START_MS, shop_events
from tests.support.streams.simulated import to_records

USERS, EVENTS, STEP_MS = 25, 1_800, 20_000
ARRIVED = (0, 0, now_ms())  # partition, offset, time
JOB = {"parallelism": 1, "name": "pipeline"}
IDS = {
    HOT_USER: (HOT_USER, "hot-phone", "hot-tablet"),
    REGULAR_USER: (REGULAR_USER, "regular-phone"),
    "user-3": ("user-3", "user-3-phone"),
}


def erasures_of(erased: Mapping[str, int]) -> RecordedFeeds:
    return RecordedFeeds(
        erasures=[
            kafka.Record(
                "user-erasures", *ARRIVED, key_of(user), to_erasure(user, before_ms - older_ms), {}
            )
            for user, before_ms in erased.items()
            for older_ms in (0, 3_600_000)  # an older erasure that comes later changes nothing
        ]
    )


def feed_of(merges: IdentityTable) -> RecordedMerges:
    return RecordedMerges(
        [
            kafka.Record(
                "user-merges", *ARRIVED, key_of(each), to_record(each, merges.merges(each)), {}
            )
            for each in merges.aliases()
        ]
    )


def merges_at(merge_ms: int) -> IdentityTable:
    """HOT_USER has two aliases, one through the other; two more users have one."""
    merges = IdentityTable()
    merges.put("hot-phone", [Merge("hot-tablet", merge_ms - HOUR_MS)])
    merges.put("hot-tablet", [Merge(HOT_USER, merge_ms)])
    merges.put("regular-phone", [Merge(REGULAR_USER, merge_ms + HOUR_MS + 7)])
    merges.put("user-3-phone", [Merge("user-3", merge_ms)])
    return merges


def under_several_ids(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        event | {"user_id": rng.choice(IDS[event["user_id"]])}
        if event.get("user_id") in IDS
        else event
        for event in events
    ]


def test_windows_show_the_person_and_nothing_of_an_erased_past(tmp_path: Path) -> None:
    settings = load(job=JOB, window={"stagger_ms": 10_000}, merges={"enabled": True})
    events = list(islice(shop_events(7, USERS, STEP_MS), EVENTS))
    merges = merges_at(events[EVENTS // 2]["event_time"])
    records = in_one_partition(seeded.with_faults(iter(under_several_ids(events)), seed=7).messages)
    rng = random.Random(7)
    users = sorted({event["user_id"] for event in events} - IDS.keys())
    erased = {
        user: START_MS + rng.randrange(EVENTS * STEP_MS)
        for user in rng.sample(users, 3 * len(users) // 5)
    }
    output = run_profile_pipeline(
        records, settings, tmp_path, erasures_of(erased), open_merges=feed_of(merges)
    )
    # Rejected events are compared as they were sent.
    refused = {
        sent.position: sent.key
        for sent in output.sent_to(settings.topics.rejected)
        if sent.headers["reason"] == "ERASED"
    }
    rejected = {sent.position for sent in output.sent_to(settings.topics.rejected)}
    resolved = [
        record
        if (record.partition, record.offset) in rejected
        else record._replace(value=_resolved(record.value, merges))
        for record in records
    ]
    expected = assert_equals_reference(resolved, output, settings, erased)

    assert not any(refused.values())
    reasons = Counter(reason for reason, _ in expected.rejected.values())
    assert len(refused) == reasons["ERASED"] > 300
    later = Counter(user for user, _ in expected.profiles if user in erased)
    # Histories hold 8 windows, memories 40: users with more show that the past stays away.
    assert sum(count > 41 for count in later.values()) >= 2, later
    assert len(expected.profiles) > sum(later.values()) > 100
    users = Counter(user for user, _ in output.sink.deltas)
    assert users["hot-phone"] > 5 and users["hot-tablet"] > 5 and users["regular-phone"]
    assert all(
        end_ms - settings.window.length_ms < merges.merges("user-3-phone")[0].since_ms
        for user, end_ms in output.sink.deltas
        if user == "user-3-phone"
    )


def _resolved(value: bytes | None, merges: IdentityTable) -> bytes | None:
    try:
        event = json.loads(value or b"")
        person = merges.resolve(event["user_id"], event["event_time"])
        return json.dumps(event | {"user_id": person}).encode()
    except (ValueError, TypeError, KeyError):
        return value


def test_scores_show_the_person_and_nothing_of_an_erased_past(tmp_path: Path) -> None:
    settings = load(job=JOB, scoring={"history": 1_024, "replay": True}, merges={"enabled": True})
    events = simulated.simulated_shop(seed=7)
    rng, merges = random.Random(7), IdentityTable()
    users = sorted({event["user_id"] for event in events})
    # Of a user whose id ends in 7, all events lack entities.
    with_alias = [user for user in users[::2] if not user.endswith("7")]
    since_ms = events[len(events) // 4]["event_time"]
    for user_id in with_alias:
        merges.put(f"{user_id}-phone", [Merge(user_id, since_ms)])
    erased = {
        user: rng.choice(events)["event_time"]
        for user in rng.sample(sorted(set(users) - set(with_alias)), len(users) // 3)
    }
    several = [
        event | {"user_id": f"{event['user_id']}-phone"}
        if f"{event['user_id']}-phone" in merges and rng.random() < 0.5
        else event
        for event in events
    ]
    records = to_records(simulated.irregular_payloads(several, seed=7))
    output = run_scoring_pipeline(
        records, [], settings, tmp_path, erasures_of(erased), open_merges=feed_of(merges)
    )
    arrivals = [
        event for event in read_events(records, settings.limits) if isinstance(event, ScoredEvent)
    ]
    resolved = [
        event._replace(user=merges.resolve(event.user, event.time_ms)) for event in arrivals
    ]
    later = [event for event in resolved if event.time_ms >= erased.get(event.user, 0)]
    assert_matches_reference(output.sink, expected_decisions(settings, later, file_rules(settings)))
    assert len(arrivals) - len(later) > 50
    assert sum(event.user in erased for event in later) > 50
    assert sum(event.user.endswith("-phone") for event in later) > 5
    assert sum(old != new for old, new in zip(arrivals, resolved, strict=True)) > 50
