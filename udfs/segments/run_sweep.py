"""Runs a sweep with Cassandra and Kafka, announced to the workers of the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson
from cassandra.cluster import Session

from liveprofile.alerts.cloud_events import origin_of
from liveprofile.kafka import records
from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.events import change_event
from liveprofile.segments.membership import MembershipWrite
from liveprofile.segments.sweep_changes import SweepPlan
from liveprofile.settings import Settings
from liveprofile.wire.user_records import CONTENT_TYPE
from udfs.consent_feed import read_consents
from udfs.definition_feed import send_records
from udfs.segments.membership_store import rewrite_after_ms
from udfs.segments.sweep import SETTLE_S, Sweep, SweepResult, SweepState
from udfs.segments.sweep_store import CassandraSweepStore
from udfs.segments_feed import SWEEP_KEY, read_topic_segments


def run_sweep(
    settings: Settings,
    session: Session,
    segments: SegmentSet,
    time_ms: int,
    *,
    settle_s: float = SETTLE_S,
    on_page: Callable[[SweepState], None] = lambda state: None,
    **store_options: float,
) -> SweepResult:
    """Sweeps all users, or goes on with a sweep whose process has ended, at that sweep's time.

    segments: those in force. settle_s: how long workers may take to see the announcement. If other
    definitions were in force at the start (`state.version`) than at the end, sweep again. Raises
    ServiceError.

    Changes of users who do not allow marketing now are stored and not sent.
    """
    consents, now_ms = read_consents(settings), round(time.time() * 1_000)
    store = CassandraSweepStore(session, settings.cassandra, segments, **store_options)
    state = store.claim(time_ms)
    _announce(settings, state.sweep, sweeping=True)
    time.sleep(settle_s)

    def send(writes: Sequence[MembershipWrite]) -> None:
        if writes:
            topic, origin = settings.topics.segment_changes, origin_of(settings.job)
            events = (
                (write.user_id.encode(), change_event(write, origin), CONTENT_TYPE)
                for write in writes
            )
            records.send_all(settings, topic, events)

    plan = SweepPlan(
        state.sweep,
        state.time_ms,
        settings.state.decay_days,
        rewrite_after_ms(settings.cassandra),
        lambda user_id: consents.allowed(user_id, "marketing", now_ms),
        state.known_definitions,
    )
    result = Sweep(store, send, segments, plan, on_page=on_page).run(state)
    _announce(settings, state.sweep, sweeping=False)
    store.finish(result.state, result.counts)
    return result


def _announce(settings: Settings, sweep: str, sweeping: bool) -> None:
    value = orjson.dumps({"sweep": sweep, "sweeping": sweeping})
    topic = read_topic_segments(settings)
    send_records(settings, settings.topics.segments, topic, [(SWEEP_KEY, value)])
