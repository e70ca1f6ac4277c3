"""Profile rows for tests of profile sinks."""

import numpy as np

from liveprofile.rules.flags import Flag
from liveprofile.units import MINUTE_MS
from tests.support.rows.stored_rows import profile_fields
from udfs.profile.rows import ProfileRow
from udfs.profile.store import CassandraProfileStore

DIM = 4
TABLES = ("user_profile", "profile_delta", "risk_flag", "risk_flag_by_day", "user_lookalike")
START_MS = 1_511_658_000_000  # 2017-11-26 01:00:00 UTC
WINDOW_MS = 5 * MINUTE_MS


def profile_row(user_id: str = "u", window: int = 0, **changes: object) -> ProfileRow:
    """The row of the window number `window` after START_MS; `changes` overrides fields."""
    start_ms = START_MS + window * WINDOW_MS
    direction = np.array([1, window, 0, 0], np.float32)
    values = dict(
        user_id=user_id,
        window_start_ms=start_ms,
        window_end_ms=start_ms + WINDOW_MS,
        model_version="test-1",
        feature_version=1,
        revision=1,
        churn=0.25,
        expected_spend=12.5,
        surprise=3.5,
        recency_days=None,
        purchases_decayed=1.5,
        amount_decayed=20.25,
        segments=["new", "loyal"],
        profile=b'{"interests":{"caf\xc3\xa9":0.5}}',
        embedding=direction / np.linalg.norm(direction),
        events=2,
        amount=20.25,
        embedding_distance=0.125,
        active_rules=[],
        delta=b'{"before":{"churn":0.5},"after":{"churn":0.25}}',
        digests=bytes(range(16)),
        events_total=7,
        write_lookalike=False,
        flags=[],
    )
    return ProfileRow(**profile_fields() | values | changes)


def flag(rule_id: str = "rule", **changes: object) -> Flag:
    """A flag of a window; `changes` overrides fields."""
    return Flag(
        flag_id="0" * 32,
        rule_id=rule_id,
        reason="UNUSUAL_BEHAVIOUR",
        severity="high",
        action="step_up_verification",
        value=13.5,
        threshold=12.0,
        message="unlike the user",
        evidence={"events": 2},
        rules_version="v1",
    )._replace(**changes)


def write_and_flush(sink: CassandraProfileStore, *rows: ProfileRow) -> None:
    sink.writer.write(rows)
    sink.writer.flush()
