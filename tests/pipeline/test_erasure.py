"""Users who are erased in the middle of a stream, against a reference that forgets them.

The erasures are complete before the stream begins, as after a restart of the job: Flink's state
still collects each user's past, and later windows and events must show nothing of it.
"""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import pytest

from liveprofile.kafka import records as kafka
from liveprofile.privacy.erasures import to_record
from liveprofile.resources import product_path
from liveprofile.settings import load
from liveprofile.wire.user_records import key_of
from models.fraud.model import FraudModel
from tests.pipeline.comparison import assert_equals_reference, in_one_partition
from tests.pipeline.harness import run_profile_pipeline, run_scoring_pipeline
from tests.reference.entity_features import Arrival
from tests.reference.entity_features import Event as ScoredEvent
from tests.reference.scoring import decide, read_events
from tests.support.memory.feeds import RecordedFeeds
from tests.support.scoring_harness import assert_matches_reference
from tests.support.streams import seeded, simulated
from tests.support.streams.shop import START_MS, shop_events
from tests.support.streams.simulated import to_records

pytestmark = pytest.mark.pipeline

USERS, EVENTS, STEP_MS = 25, 2_000, 20_000


def erasures_of(erased: Mapping[str, int]) -> RecordedFeeds:
    return RecordedFeeds(
        erasures=[
            kafka.Record(
                "user-erasures", 0, 0, 0, key_of(user), to_record(user, before_ms - older_ms), {}
            )
            for user, before_ms in erased.items()
            for older_ms in (0, 3_600_000)  # an older erasure that comes later changes nothing
        ]
    )


def test_later_windows_of_erased_users_show_nothing_of_their_past(tmp_path: Path) -> None:
    settings = load(job={"parallelism": 1, "name": "pipeline"}, window={"stagger_ms": 10_000})
    records = in_one_partition(
        seeded.with_faults(islice(shop_events(7, USERS, STEP_MS), EVENTS), seed=7).messages
    )
    rng = random.Random(7)
    users = sorted({record.key.decode() for record in records if record.key})
    erased = {
        user: START_MS + rng.randrange(EVENTS * STEP_MS)
        for user in rng.sample(users, 3 * len(users) // 5)
    }
    output = run_profile_pipeline(records, settings, tmp_path, open_feeds=erasures_of(erased))
    expected = assert_equals_reference(records, output, settings, erased)

    refused = [
        sent
        for sent in output.sent_to(settings.topics.rejected)
        if sent.headers["reason"] == "ERASED"
    ]
    assert not any(sent.key for sent in refused)
    reasons = Counter(reason for reason, _ in expected.rejected.values())
    assert len(refused) == reasons["ERASED"] > 300
    later = Counter(user for user, _ in expected.profiles if user in erased)
    # Histories hold 8 windows, memories 40: users with more show that the past stays away.
    assert sum(count > 41 for count in later.values()) >= 2, later
    assert len(expected.profiles) > sum(later.values()) > 100


def test_scores_show_nothing_of_what_users_have_erased(tmp_path: Path) -> None:
    settings = load(
        job={"parallelism": 1, "name": "pipeline"}, scoring={"history": 1_024, "replay": True}
    )
    events = simulated.simulated_shop(seed=7)
    records = to_records(simulated.irregular_payloads(events, seed=7))
    arrivals: list[Arrival] = read_events(records, settings.limits)
    rng = random.Random(7)
    users = sorted({event.user for event in arrivals if isinstance(event, ScoredEvent)})
    times_ms = [event.time_ms for event in arrivals]
    erased = {user: rng.choice(times_ms) for user in rng.sample(users, len(users) // 3)}
    output = run_scoring_pipeline(records, [], settings, tmp_path, open_feeds=erasures_of(erased))
    later = [
        event
        for event in arrivals
        if isinstance(event, ScoredEvent) and event.time_ms >= erased.get(event.user, 0)
    ]
    rules = tomllib.loads(product_path(settings.rules).read_text("utf-8"))["rules"]
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    expected = decide(later, rules, model, settings.scoring.history)
    assert_matches_reference(output.sink, expected)
    assert len(arrivals) - len(later) > 50
    assert sum(event.user in erased for event in later) > 50
