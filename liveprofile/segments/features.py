"""The features that segments read, and their values at a time after the user's last window."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.rules.conditions import AttributeValue
from liveprofile.units import DAY_MS
from liveprofile.value_curves import STORED_COLUMNS, ValueCurves

# Features of the profile after the window (udfs.profile.inputs.FEATURES).
PROFILE_FEATURES = {
    "windows": "the user's windows",
    "events": "events in all windows",
    "purchases": "purchases in all windows",
    "amount": "spent in all windows, in shop currency",
    "purchase_windows": "windows with a purchase",
    "recency_days": "days since the last purchase; unknown if there was none",
    "purchases_decayed": "purchases, older ones counting less",
    "amount_decayed": "spent, older purchases counting less",
    "purchase_count_mean": "purchases in a usual window with any",
    "purchase_count_std": "their standard deviation",
    "purchase_amount_mean": "spent in a usual window with a purchase",
    "purchase_amount_std": "its standard deviation",
    "churn": "the model's probability of no purchase",
    "expected_spend": "the model's expected spend",
}
OTHER_FEATURES = {
    "used_coupon": "1 if a coupon was used in the last windows, else 0",
    "idle_days": "days since the end of the user's last window",
}
SEGMENT_FEATURES = PROFILE_FEATURES | OTHER_FEATURES
# Functions of one text.
INTEREST, AFFINITY, SEGMENT = "interest", "affinity", "segment"

_DECAYED = ("purchases_decayed", "amount_decayed")
_DECIMALS = 6  # as profiles are rounded


class SegmentInputs(NamedTuple):
    """What segments read of n users."""

    features: Mapping[str, np.ndarray]  # (n,) float64 for each of SEGMENT_FEATURES; NaN: unknown
    interests: Sequence[Mapping[str, float]]  # n: the ten likeliest next categories
    affinity: Sequence[Mapping[str, float]]  # n: the ten categories with the largest shares
    attributes: Sequence[Mapping[str, AttributeValue | None]] = ()  # n; empty: none


def features_at(
    profile: Mapping[str, np.ndarray],
    used_coupon: np.ndarray,
    window_end_ms: np.ndarray,
    time_ms: int | np.ndarray,
    decay_days: float,
    curves: ValueCurves | None = None,
) -> dict[str, np.ndarray]:
    """(n,) for each of SEGMENT_FEATURES, at `time_ms`, if no event came after `window_end_ms`.

    profile: (n,) for each of PROFILE_FEATURES as of `window_end_ms`. Days since the last purchase
    and the last window grow with time, decayed totals shrink, the model's values follow `curves`;
    without a curve they stay, as all others. A time before the window's end counts as it.
    """
    idle_days = np.maximum(time_ms - window_end_ms, 0) / DAY_MS
    columns = dict(profile) | {"used_coupon": used_coupon.astype(np.float64)}
    columns["idle_days"] = np.round(idle_days, _DECIMALS)
    if idle_days.any():
        columns["recency_days"] = np.round(profile["recency_days"] + idle_days, _DECIMALS)
        decay = np.exp(-idle_days / decay_days)
        for name in _DECAYED:
            columns[name] = np.round(profile[name] * decay, _DECIMALS)
        if curves is not None:
            values = curves.at(idle_days)
            for name in STORED_COLUMNS:
                columns[name] = np.where(np.isnan(values[name]), profile[name], values[name])
    return columns
