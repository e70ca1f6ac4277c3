"""Random grants and withdrawals of hundreds of users, against a plain reading of the consents.

The consents are complete before the stream begins, as after a restart of the job.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from liveprofile.consent.changes import ConsentChange, to_record
from liveprofile.kafka import records as kafka
from liveprofile.settings import Settings, load
from liveprofile.storage.cql import now_ms
from liveprofile.units import MINUTE_MS
from tests.pipeline.comparison import in_one_partition
from tests.pipeline.harness import run_profile_pipeline
from tests.reference.consents import is_allowed
from tests.reference.profile import digest
from tests.reference.windows import Classification, Position, Record, classify, window_end_ms
from tests.support.memory.feeds import RecordedFeeds
from tests.support.streams import seeded
from tests.support.streams.shop import START_MS, shop_events

USERS, EVENTS, STEP_MS = 160, 1_000, 13_000
Changes = dict[str, list[ConsentChange]]


def random_changes(rng: random.Random, users: list[str]) -> Changes:
    found: Changes = {}
    for user in users:
        for purpose in "profiling", "marketing", "recommendation", "risk":
            for _ in range(rng.randrange(4)):
                time_ms = START_MS + rng.randrange(EVENTS * STEP_MS)
                # Some at the time of an event.
                time_ms -= time_ms % STEP_MS if rng.random() < 0.3 else 0
                change = ConsentChange(time_ms, purpose, rng.random() < 0.5)
                found.setdefault(user, []).append(change)
    return found


def expected_use(
    records: list[Record], settings: Settings, allows: Callable[[str, str, int], bool]
) -> tuple[dict[Position, str], dict[tuple[str, int], set[bytes]]]:
    """The reason of each rejected record, and the digests of the events in each window."""
    classes = Classification()
    events = classify(records, settings, None, None, classes)
    reasons = {position: each.reason for position, each in classes.rejected.items()}
    windows: dict[tuple[str, int], set[bytes]] = {}
    used = (record[:2] for record in records if record[:2] in classes.used)
    for position, event in zip(used, events, strict=True):
        if allows(event.user_id, "profiling", event.time_ms):
            end_ms = window_end_ms(event.user_id, event.time_ms, settings.window)
            windows.setdefault((event.user_id, end_ms), set()).add(digest(event.event_id))
        else:
            reasons[position] = "NO_CONSENT"
    return reasons, windows


def test_only_what_users_allow_is_scored_stored_and_sent(tmp_path: Path) -> None:
    settings = load(job={"parallelism": 1, "name": "pipeline"})
    stream = seeded.with_faults(
        islice(shop_events(11, USERS, STEP_MS), EVENTS), seed=11, late_by_ms=60 * MINUTE_MS
    )
    records = in_one_partition(stream.messages)
    users = sorted({message.key.decode() for message in stream.messages if message.key})
    changes = random_changes(random.Random(11), users)
    consents = RecordedFeeds(
        [
            kafka.Record("user-consents", 0, 0, now_ms(), user.encode(), to_record(user, each), {})
            for user, each in changes.items()
        ]
    )
    output = run_profile_pipeline(records, settings, tmp_path, consents)

    def allows(user: str, purpose: str, at_ms: int) -> bool:
        return is_allowed(changes.get(user, ()), purpose, at_ms)

    rejected = output.sent_to(settings.topics.rejected)
    expected_reasons, windows = expected_use(records, settings, allows)
    assert {sent.position: sent.headers["reason"] for sent in rejected} == expected_reasons
    assert len(rejected) == len(expected_reasons)
    assert {sent.value for sent in rejected if sent.headers["reason"] == "NO_CONSENT"} == {""}

    stored = {
        key: {row.digests[i : i + 8] for i in range(0, len(row.digests), 8)}
        for key, row in output.sink.deltas.items()
    }
    assert stored == windows
    assert output.sink.profiles.keys() == {user for user, _ in windows}
    alerts = [json.loads(sent.value or "") for sent in output.sent_to(settings.topics.alerts)]
    assert all(alert["subject"] in output.sink.profiles for alert in alerts)

    recommended, at_risk = Counter(), Counter()
    for (user, end_ms), row in output.sink.deltas.items():
        profile = json.loads(row.profile)
        may_recommend = allows(user, "recommendation", end_ms)
        has_lists = bool(profile["interests"]), bool(profile["next_items"])
        assert may_recommend or has_lists == (False, False)
        may_flag = allows(user, "risk", end_ms)
        assert may_flag or not (row.flags or row.active_rules)
        recommended[may_recommend, *has_lists] += 1
        at_risk[may_flag, bool(row.active_rules)] += 1
    assert recommended[True, True, True] > 100 and recommended[False, False, False] > 100
    assert at_risk[False, False] > 100

    announced = set()
    for sent in output.sent_to(settings.topics.segment_changes):
        data = json.loads(sent.value or "")["data"]
        announced.add((data["user_id"], data["segment_id"], data["change"]))
    for (user, end_ms), row in output.sink.deltas.items():
        for write in row.memberships:
            assert not write.is_sent or allows(user, "marketing", end_ms)
    assert announced == {
        (write.user_id, write.segment_id, write.change)
        for row in output.sink.deltas.values()
        for write in row.memberships
        if write.is_sent
    }
    counts = Counter(
        write.is_sent for row in output.sink.deltas.values() for write in row.memberships
    )
    # The test means something only if all of this occurs often.
    refused = list(expected_reasons.values()).count("NO_CONSENT")
    assert len(changes) > 140 and refused > 100 and len(windows) > 500
    assert min(counts[True], counts[False]) > 20
