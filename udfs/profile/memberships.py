"""The segment memberships of the windows of a batch of the profile pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from liveprofile.alerts.cloud_events import EventOrigin
from liveprofile.consent.changes import ConsentBook
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.membership import MembershipWrite, change_event
from liveprofile.segments.policy import EvaluatedWindow, MembershipPolicy, MembershipReader
from liveprofile.settings import Settings
from liveprofile.wire import output_records
from udfs.cassandra.encoding import write_time_us
from udfs.cassandra.memberships import rewrite_after_ms
from udfs.profile.profile_row import ProfileRow


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
