"""The features that rules of scope "window" read, and their columns for a batch of n windows."""

from collections.abc import Mapping

import numpy as np

CURRENT_WINDOW = {
    "events": "events in the window",
    "purchases": "purchases in the window",
    "amount": "spent in the window, in shop currency",
    "surprise": "how unlike the user's past its events are to the model, in nats",
}
# Known before the window starts. `IN_PROFILE` gives the names of udfs.profile.inputs.FEATURES
# where they differ.
BEFORE_WINDOW = {
    "windows": "windows before this one",
    "purchase_windows": "windows with a purchase before this one",
    "events_before": "events before the window",
    "purchases_before": "purchases before the window",
    "amount_before": "spent before the window, in shop currency",
    "recency_days": "days from the last purchase to the window's start; unknown if there was none",
    "purchases_decayed": "purchases before the window, older ones counting less",
    "amount_decayed": "spent before the window, older purchases counting less",
    "purchase_count_mean": "purchases in a usual window with any",
    "purchase_count_std": "their standard deviation",
    "purchase_amount_mean": "spent in a usual window with a purchase",
    "purchase_amount_std": "its standard deviation",
    "churn": "the model's probability of no purchase, without the window",
    "expected_spend": "the model's expected spend, without the window",
}
DERIVED = {
    "purchase_count_z": "(purchases - purchase_count_mean) / max(purchase_count_std, 1)",
    "purchase_amount_z": "(amount - purchase_amount_mean)"
    " / max(purchase_amount_std, 0.1 * purchase_amount_mean, 1)",
}
WINDOW_FEATURES = CURRENT_WINDOW | BEFORE_WINDOW | DERIVED

IN_PROFILE = {f"{name}_before": name for name in ("events", "purchases", "amount")}


def window_features(
    before: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Computes an (n,) column for each of WINDOW_FEATURES.

    before: udfs.profile.inputs.FEATURES as known before the window; window: CURRENT_WINDOW.
    """
    columns = dict(window) | {name: before[IN_PROFILE.get(name, name)] for name in BEFORE_WINDOW}
    for kind, value, min_std in (
        ("count", columns["purchases"], 1.0),
        ("amount", columns["amount"], np.maximum(0.1 * columns["purchase_amount_mean"], 1.0)),
    ):
        mean, std = columns[f"purchase_{kind}_mean"], columns[f"purchase_{kind}_std"]
        columns[f"purchase_{kind}_z"] = (value - mean) / np.maximum(std, min_std)
    return columns
