"""The row that the profile pipeline stores for one window of one user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.rules.flags import Flag
from liveprofile.segments.membership import MembershipWrite


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
