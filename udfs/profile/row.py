"""The row that the profile pipeline stores for one window of one user, with its memberships."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from liveprofile.alerts.cloud_events import EventOrigin
from liveprofile.consent.changes import ConsentBook
from liveprofile.rules.flags import Flag
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.membership import MembershipWrite, change_event
from liveprofile.segments.policy import EvaluatedWindow, MembershipPolicy, MembershipReader
from liveprofile.settings import Settings
from liveprofile.wire import output_records
from udfs.cassandra.encoding import write_time_us
from udfs.cassandra.memberships import rewrite_after_ms


class ProfileRow(NamedTuple):
    """One window of one user: the new profile, its change and the flags that were raised.

    JSON is UTF-8 bytes. Money is in the shop's currency.
    """

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    feature_version: int
    revision: int  # of the model or its deployment, 0 to 999,999: orders writes of one window
    churn: float  # probability of no purchase within the model's horizon
    expected_spend: float
    surprise: float  # nats per event
    recency_days: float | None  # None: the user never bought
    purchases_decayed: float
    amount_decayed: float
    segments: list[str]
    profile_json: bytes
    embedding: np.ndarray  # (dim,) float32
    events: int  # in the window
    amount: float  # spent in the window
    embedding_distance: float  # cosine distance between the embeddings before and after
    active_rules: list[str]  # ids of the rules that are true of the window
    delta_json: bytes
    digests: bytes  # 8 bytes per event
    events_total: int
    write_lookalike: bool  # whether user_lookalike gets a row too
    flags: list[Flag]
    memberships: Sequence[MembershipWrite] = ()  # of segments that changed
    # Of a user who was erased: the sums since then (liveprofile.features.baselines.COLUMNS).
    later_sums: tuple[float, ...] | None = None


def open_membership_policy(settings: Settings, store: MembershipReader) -> MembershipPolicy:
    """Returns the policy of a worker, which knows no user yet."""
    return MembershipPolicy(store, rewrite_after_ms(settings.cassandra))


def with_memberships(
    rows: Sequence[ProfileRow],
    evaluation: Evaluation,
    policy: MembershipPolicy,
    consents: ConsentBook,
) -> list[ProfileRow]:
    """Returns the rows with the memberships that change. Raises StoreError.

    rows: those of a user in time order; evaluation: of the same rows.
    """
    windows = [
        EvaluatedWindow(
            row.user_id,
            row.window_end_ms,
            write_time_us(row),
            names,
            partial(evaluation.evidence, row=index),
            consents.allowed(row.user_id, "marketing", row.window_end_ms),
        )
        for index, (row, names) in enumerate(zip(rows, evaluation.names(), strict=True))
    ]
    found = policy.changes(windows, evaluation.segments)
    return [
        row._replace(memberships=writes) if writes else row
        for row, writes in zip(rows, found, strict=True)
    ]


def change_records(topic: str, writes: Sequence[MembershipWrite], origin: EventOrigin) -> list[str]:
    """Returns an output record for each change that is sent."""
    return [
        output_records.record(topic, write.user_id, change_event(write, origin).decode())
        for write in writes
        if write.is_sent
    ]
