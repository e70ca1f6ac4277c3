"""Measures whether the reasons of flagged events are those of the model, and the right ones.

Three rankings of the feature groups are compared: `reasons`, which are sums of exact Shapley values
(models.fraud.reasons), `occlusion`, the drop of the log-odds if a group alone takes its
usual values (Zeiler and Fergus 2013, arXiv:1311.2901), and `random`.

- Deletion and insertion (Petsiuk and others 2018, arXiv:1806.07421): groups take their usual values
  one after the other, the strongest first; or an event that is usual in everything gets its own
  values back. Each curve is the mean of the log-odds over the first STEPS steps, as a share of the
  way from the usual event (0) to the event itself (1). A good ranking deletes low and inserts high.
- Planted causes: how often the top group is what the simulator planted, by kind of fraud.
- Stability: how often the top group stays if amounts, ratios and times change by CHANGE.

All of them can fail: none compares a maximum with other values of the same vector.

Shape suffixes: n events, F features, G groups, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.simulated.shops import SimulatedDataset
from liveprofile.features.entity import EVENT_FEATURES
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.model import FraudModel, probability
from models.fraud.reasons import feature_groups, group_weights, shapley_values

STEPS = 10
FAITHFULNESS_EVENTS = 100
TOP = 3  # as many reasons as a flag shows
CHANGE = 0.01
CHANGED_UNITS = ("money", "ratio", "share", "seconds", "days")
RANKINGS = ("reasons", "occlusion", "random")
# docs/simulator.md, "Frauds": what makes a case of this kind a fraud.
PLANTED_CAUSES = {
    "takeover": {  # another device, city and address, higher amounts; thieves reuse the first two
        *("NEW_DEVICE", "DEVICE_AGE", "DEVICE_FRAUDS", "NEW_PLACE", "AMOUNT"),
        *("NEW_ADDRESS", "ADDRESS_FRAUDS"),
    },
    "card_test": {  # many tiny purchases in minutes, on one device, by up to ten accounts
        *("BURST", "TINY_AMOUNTS", "DEVICE_BURST", "DEVICE_AMOUNTS", "DEVICE_USERS"),
        *("SHOP_BURST", "SHOP_AMOUNTS"),
    },
    "coupon_ring": {  # many users of few devices, addresses and coupons
        *("DEVICE_USERS", "DEVICE_BURST", "ADDRESS_USERS", "ADDRESS_BURST"),
        *("COUPON_USERS", "COUPON_BURST", "COUPONS"),
    },
}


def faithfulness(
    model: FraudModel,
    x_nF: np.ndarray,
    types: Sequence[str],
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Returns `events`, `deletion`, `insertion`, `planted_cause` and `stability`.

    types, kinds: of each flagged event; kinds: of fraud, "" for none; empty if they are unknown.
    """
    if not len(x_nF):
        return {"events": 0}
    usual_nF = np.array([model.usual_for(name) for name in types])
    ranks = rankings(model, x_nF, usual_nF, seed)
    report: dict[str, Any] = {"events": len(x_nF)}
    for name, inserts in (("deletion", False), ("insertion", True)):
        report[name] = {
            ranking: round(float(curves(model, x_nF, usual_nF, ranks[ranking], inserts).mean()), 4)
            for ranking in RANKINGS
        }
    groups = feature_groups(tuple(model.names))
    codes = np.array([group.code for group in groups])
    report["planted_cause"] = {
        kind: _planted_share(codes, ranks, np.array(kinds) == kind, causes)
        for kind, causes in PLANTED_CAUSES.items()
        if kind in kinds
    }
    report["stability"] = round(stability(model, x_nF, ranks["reasons"], seed), 4)
    return report


def rankings(
    model: FraudModel, x_nF: np.ndarray, usual_nF: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns (n, G) group indices by name of the ranking, the strongest group first."""
    groups = feature_groups(tuple(model.names))
    random = np.random.default_rng(seed)
    strength = {
        "reasons": group_weights(groups, shapley_values(model, x_nF)),
        "occlusion": occlusion_drops(model, x_nF, usual_nF),
        "random": random.random((len(x_nF), len(groups))),
    }
    return {name: np.argsort(-of_nG, axis=1, kind="stable") for name, of_nG in strength.items()}


def occlusion_drops(model: FraudModel, x_nF: np.ndarray, usual_nF: np.ndarray) -> np.ndarray:
    """(n, G) drops of the log-odds if one group takes its usual values.

    A group of unknown features keeps its values: an event without a coupon is usual.
    """
    features_G = [group.features for group in feature_groups(tuple(model.names))]
    drops = []
    for x_F, usual_F in zip(x_nF, usual_nF, strict=True):
        occluded_GF = np.tile(x_F, (len(features_G) + 1, 1))
        for g, features in enumerate(features_G, 1):
            if not np.isnan(x_F[features]).all():
                occluded_GF[g, features] = usual_F[features]
        log_odds = model.log_odds(occluded_GF)
        drops.append(log_odds[0] - log_odds[1:])
    return np.array(drops)


def curves(
    model: FraudModel, x_nF: np.ndarray, usual_nF: np.ndarray, order_nG: np.ndarray, inserts: bool
) -> np.ndarray:
    """(n,) heights of the deletion or insertion curve.

    An unknown value stays unknown, as in the reasons: an event without a coupon is usual.
    """
    groups = feature_groups(tuple(model.names))
    grouped = sorted(feature for group in groups for feature in group.features)
    most_usual_nF = x_nF.copy()
    most_usual_nF[:, grouped] = np.where(np.isnan(x_nF), np.nan, usual_nF)[:, grouped]
    current_nF, other_nF = (most_usual_nF, x_nF) if inserts else (x_nF, most_usual_nF)
    current_nF = current_nF.copy()
    steps_Kn = []
    for step in range(min(STEPS, len(groups))):
        for row, group in enumerate(order_nG[:, step]):
            features = groups[group].features
            current_nF[row, features] = other_nF[row, features]
        steps_Kn.append(model.log_odds(current_nF))
    low_n, high_n = model.log_odds(most_usual_nF), model.log_odds(x_nF)
    span_n = np.where(high_n > low_n, high_n - low_n, np.nan)
    share_Kn = (np.array(steps_Kn) - low_n) / span_n
    return np.nan_to_num(share_Kn.mean(axis=0))


def stability(model: FraudModel, x_nF: np.ndarray, order_nG: np.ndarray, seed: int = 0) -> float:
    """Returns the share of events whose top group stays under a small random change."""
    changes = [EVENT_FEATURES[name].unit in CHANGED_UNITS for name in model.names]
    factor_nF = 1 + CHANGE * np.random.default_rng(seed).uniform(-1, 1, x_nF.shape)
    changed_nF = np.where(changes, x_nF * factor_nF, x_nF).astype(np.float32)
    groups = feature_groups(tuple(model.names))
    weight_nG = group_weights(groups, shapley_values(model, changed_nF))
    return float((weight_nG.argmax(axis=1) == order_nG[:, 0]).mean())


def _planted_share(
    codes: np.ndarray, ranks: dict[str, np.ndarray], of_kind_n: np.ndarray, causes: set[str]
) -> dict[str, Any]:
    """Shares of the kind's events whose first group, or one of the first TOP, is planted."""
    planted_G = np.isin(codes, sorted(causes))
    report: dict[str, Any] = {"events": int(of_kind_n.sum())}
    for name, order_nG in ranks.items():
        planted_nK = planted_G[order_nG[of_kind_n, :TOP]]
        report[name] = {
            "first": round(float(planted_nK[:, 0].mean()), 4),
            f"first_{TOP}": round(float(planted_nK.any(axis=1).mean()), 4),
        }
    return report


def faithfulness_events(dataset: SimulatedDataset, flagged_M: np.ndarray) -> np.ndarray:
    """Returns rows of flagged events: up to FAITHFULNESS_EVENTS of each kind, spread over time."""
    kind_M = dataset.case_kind_M.astype(str)
    chosen = []
    for kind in np.unique(kind_M[flagged_M]):
        rows = np.flatnonzero(flagged_M & (kind_M == kind))
        step = max(1, len(rows) // FAITHFULNESS_EVENTS)
        chosen.append(rows[::step][:FAITHFULNESS_EVENTS])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def measure_reasons(
    model: FraudModel, dataset: SimulatedDataset, threshold: float
) -> dict[str, Any]:
    """Measures the faithfulness of the reasons of events with this score or more."""
    events = dataset.events
    score_M = probability(model.log_odds(events.labelled.x_NF))
    flagged = faithfulness_events(dataset, score_M >= threshold)
    types = [EVENT_TYPES[index] for index in events.type_M[flagged]]
    kinds = dataset.case_kind_M[flagged].tolist()
    return faithfulness(model, events.labelled.x_NF[flagged], types, kinds)
