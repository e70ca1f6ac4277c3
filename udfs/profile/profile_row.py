"""What the profile pipeline stores for one window of one user."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.rules.flags import Flag


class ProfileRow(NamedTuple):
    """What one window of one user leaves behind. JSON is UTF-8 bytes, money in shop currency."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    feature_version: int
    revision: int  # of the model, 0 to 999: breaks ties between two writes of one window
    churn: float
    expected_spend: float
    surprise: float
    recency_days: float | None
    purchases_decayed: float
    amount_decayed: float
    segments: list[str]
    profile_json: bytes
    embedding: np.ndarray  # (dim,) float32
    events: int
    amount: float
    embedding_distance: float
    active_rules: list[str]
    delta_json: bytes
    digests: bytes  # 8 bytes an event
    events_total: int
    write_lookalike: bool  # embedding moved enough, or segments changed
    flags: list[Flag]


def write_time_us(row: ProfileRow) -> int:
    """The USING TIMESTAMP of all that a row writes (docs/data-contract.md section 8)."""
    return row.window_end_ms * 1_000 + row.revision
