"""Explains the score of an event.

The weight of a group of features is the sum of their exact Shapley values in the trees (TreeSHAP:
Lundberg and others 2020, doi:10.1038/s42256-019-0138-9): how much they raise the log-odds above
those of the average event. An earlier event of the user is a reason by the drop of the log-odds
without it (occlusion: Zeiler and Fergus 2013, arXiv:1311.2901). Only flagged events are explained,
because one costs as much as to score dozens. lab/reasons/faithfulness.py measures them.

Shape suffixes: n events, F features, G groups, P sets of features, C occluded earlier events.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb

from liveprofile.features.entity import EVENT_FEATURES, SCORED_TYPES, EventLists, TokenLists
from liveprofile.features.entity.catalogue import TYPE_UNIT
from liveprofile.features.entity.columns import ORDER_DEPTH
from liveprofile.features.entity.past_events import SPANS_MS
from liveprofile.wire.entity_lists import is_event
from liveprofile.wire.scored_events import ENTITY_NAMES
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_LETTERS
from models.fraud.model import ANY_TYPE, FraudModel, probability
from models.fraud.transitions import TRANSITIONS

MAX_REASONS = 3
MAX_EARLIER_EVENTS = 2
MAX_OCCLUDED_EVENTS = 16  # newest earlier events of the user to occlude
MIN_WEIGHT = 0.1  # log-odds; a smaller weight or drop is no reason
EARLIER_EVENT = "EARLIER_EVENT"


class FeatureGroup(NamedTuple):
    """Features that mean one thing to an analyst: one possible reason of a score."""

    code: str  # must stay the same: alerts and cases refer to it
    title: str
    features: list[int]  # indices into the model's features
    shown: list[int]  # those of them that a reason may show


class _GroupPattern(NamedTuple):
    """Features of a group by name, without the owner (user, device, ...) and the time span."""

    code: str
    title: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...] = ()  # part of the group, but no reason shows them


_AMOUNTS = ("usual_amount", "amount_spread", "amount_z", "large", "mean_ratio", "mean_amount")
_HISTORY = ("list_days", "list_events", "earlier_purchases")
_FRAUDS = ("frauds", "fraud_labels", "risk", "days_since_last_fraud")
_FRAUD_RATES = ("fraud_rate", "days_since_first_fraud", "risk_since_first_fraud")
_USER_GROUPS = (
    _GroupPattern("AMOUNT", "amount unlike this user's", ("amount_ratio", "large"), _AMOUNTS),
    _GroupPattern(
        "BURST",
        "pace of this user",
        ("purchases", "amount", "events", "seconds_since_purchase"),
        ("seconds_since_event",),
    ),
    _GroupPattern(
        "ORDER",
        "order of this user's last events",
        (
            *(f"type_{back}_before" for back in range(1, ORDER_DEPTH + 1)),
            *(f"gap_{back}_before" for back in range(2, ORDER_DEPTH + 1)),
            *(f"events_since_{name}" for name in SCORED_TYPES),
            *(f"seconds_since_{name}" for name in ("return", "coupon", "follow", "share")),
        ),
    ),
    _GroupPattern("TINY_AMOUNTS", "amounts as of a card test", ("tiny", "tiny_share")),
    _GroupPattern("NEW_DEVICE", "device of this user", ("new_device", "devices")),
    _GroupPattern("NEW_PLACE", "place of this user", ("new_place", "places")),
    _GroupPattern("NEW_SHOP", "shop of this user", ("new_shop", "shops")),
    _GroupPattern("NEW_ADDRESS", "address of this user", ("new_address", "addresses")),
    _GroupPattern("COUPONS", "coupons of this user", ("coupons", "coupon_ids", "new_coupon")),
    _GroupPattern("RETURNS", "returns of this user", ("returns",)),
    _GroupPattern("LOGINS", "logins of this user", ("logins", "seconds_since_login")),
    _GroupPattern("USER_FRAUDS", "frauds known of this user", _FRAUDS, _FRAUD_RATES),
    _GroupPattern("USER_AGE", "how long this user is known", _HISTORY, ("settled",)),
)
_ENTITY_GROUPS = (
    _GroupPattern("{}_USERS", "users of this {}", ("users", "new_user_share")),
    _GroupPattern(
        "{}_BURST", "pace at this {}", ("events", "purchases", "amount"), ("seconds_since_event",)
    ),
    _GroupPattern(
        "{}_AMOUNTS",
        "amounts at this {}",
        ("amount_ratio", "tiny", "large"),
        (*_AMOUNTS, "tiny_share"),
    ),
    _GroupPattern("{}_FRAUDS", "frauds known at this {}", _FRAUDS, _FRAUD_RATES),
    _GroupPattern("{}_AGE", "how long this {} is known", _HISTORY, ("settled",)),
)
_EVENT_GROUPS = (_GroupPattern("TIME", "time of day", ("hour",), ("night", "weekend")),)


@cache  # grouping 400 names takes milliseconds, and each alert waits for its reasons
def feature_groups(names: tuple[str, ...]) -> tuple[FeatureGroup, ...]:
    """Returns the groups that have features among `names`. A feature is in one group at most."""
    patterns = [("", pattern) for pattern in _EVENT_GROUPS]
    patterns += [("user", pattern) for pattern in _USER_GROUPS]
    patterns += [(entity, pattern) for entity in ENTITY_NAMES for pattern in _ENTITY_GROUPS]
    groups = []
    for owner, pattern in patterns:
        stems = {index: _stem(owner, name) for index, name in enumerate(names)}
        shown = [index for index, stem in stems.items() if stem in pattern.shown]
        hidden = [index for index, stem in stems.items() if stem in pattern.hidden]
        if pattern.code == "AMOUNT" and "amount" in names:
            hidden.append(names.index("amount"))  # means little without the user's usual amounts
        if shown:
            code, title = pattern.code.format(owner.upper()), pattern.title.format(owner)
            groups.append(FeatureGroup(code, title, sorted({*shown, *hidden}), shown))
    return tuple(groups)


def _stem(owner: str, name: str) -> str:
    """Returns the name without owner and span, or "" if it belongs to another owner."""
    if owner and not name.startswith(f"{owner}_"):
        return ""
    name = name.removeprefix(f"{owner}_") if owner else name
    stem, _, span = name.rpartition("_")
    return stem if span in SPANS_MS else name


class ScoreReason(NamedTuple):
    code: str
    value: float | None  # None: unknown
    usual: float | None
    sentence: str
    weight: float  # in log-odds

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields that a flag stores."""
        return {name: getattr(self, name) for name in ("code", "value", "usual", "sentence")}


def explain(
    model: FraudModel,
    events: EventLists,
    x_nF: np.ndarray,
    flagged: np.ndarray,
) -> list[list[ScoreReason]]:
    """Returns the reasons of each flagged event: the strongest groups, then earlier events.

    x_nF: the model's feature matrix of the events. flagged: indices of events.
    """
    groups = feature_groups(tuple(model.names))
    flagged = np.asarray(flagged, np.int64)
    if not len(flagged):
        return []
    earlier = _event_reasons(model, events, x_nF, flagged)
    shapley_nF = shapley_values(model, x_nF[flagged])
    return [
        _group_reasons(model, groups, x_nF[i], shapley_F, _scored_type(events, i)) + earlier[i]
        for i, shapley_F in zip(flagged.tolist(), shapley_nF, strict=True)
    ]


def shapley_values(model: FraudModel, x_nF: np.ndarray) -> np.ndarray:
    """(n, F) exact Shapley values in calibrated log-odds.

    0 for an unknown feature: an event without a coupon is usual. The value of a transition is part
    of that of the earlier event's type.
    """
    data = xgb.DMatrix(
        model.tree_inputs(x_nF), feature_names=model.booster.feature_names, nthread=1
    )
    values_nC = model.booster.predict(data, pred_contribs=True)[:, :-1]  # the last is the bias
    values_nF = values_nC[:, : len(model.names)]
    if model.transitions is not None:
        for place, back in enumerate(2 * tuple(range(1, TRANSITIONS + 1)), len(model.names)):
            values_nF[:, model.names.index(f"user_type_{back}_before")] += values_nC[:, place]
    return np.where(np.isnan(x_nF), 0.0, model.calibration.slope * values_nF)


def group_weights(groups: Sequence[FeatureGroup], shapley_nF: np.ndarray) -> np.ndarray:
    """(n, G) sums of the groups' Shapley values, which rank the reasons."""
    return np.array([shapley_nF[:, group.features].sum(axis=1) for group in groups]).T


def _group_reasons(
    model: FraudModel,
    groups: tuple[FeatureGroup, ...],
    x_F: np.ndarray,
    shapley_F: np.ndarray,
    event_type: str,
) -> list[ScoreReason]:
    usual_F = model.usual_for(event_type)
    [weight_G] = group_weights(groups, shapley_F[None])
    strongest = np.argsort(-weight_G, kind="stable")[:MAX_REASONS]
    reasons = []
    for g in strongest[weight_G[strongest] >= MIN_WEIGHT]:
        # A reason shows the one feature of its group whose own value is the largest.
        known = [f for f in groups[g].shown if not np.isnan(x_F[f])]
        index = max(known or groups[g].shown, key=shapley_F.__getitem__)
        value, usual = _rounded(x_F[index]), _rounded(usual_F[index])
        name = model.names[index]
        sentence = f"{groups[g].title}: {_describe_feature(name, value, usual)}"
        reasons.append(ScoreReason(groups[g].code, value, usual, sentence, float(weight_G[g])))
    return reasons


def _describe_feature(name: str, value: float | None, usual: float | None) -> str:
    unit, words = EVENT_FEATURES[name]
    words = words.split(": ", 1)[-1]
    if unit == "0/1" and value:
        return words
    if unit == TYPE_UNIT and value is not None:  # a median type would say nothing
        return f"{words}: {SCORED_TYPES[int(value)]}"
    usually = "" if usual is None else f", usually {_format_value(usual, unit)}"
    return f"{words}: {_format_value(value, unit)}{usually}"


def _format_value(value: float | None, unit: str) -> str:
    if value is None:
        return "not known"
    if unit == "money":
        return f"{value:,.2f}"
    if unit == "share":
        return f"{value:.0%}"
    if unit in ("count", "hour", "0/1"):
        return f"{value:,.0f}"
    if unit == "seconds":
        return f"{value:,.0f} s" if value < 600 else f"{value / 3600:,.1f} h"
    return f"{value:,.1f} days" if unit == "days" else f"{value:,.1f}"


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.6g}")


def _scored_type(events: EventLists, i: int) -> str:
    name = EVENT_TYPES[TYPE_LETTERS.index(chr(events.letter[i]))]
    return name if name in SCORED_TYPES else ANY_TYPE


def _event_reasons(
    model: FraudModel, events: EventLists, x_nF: np.ndarray, flagged: np.ndarray
) -> dict[int, list[ScoreReason]]:
    """Scores each flagged event without each of its user's newest earlier events.

    Returns by flagged event the earlier ones without which the score is lowest.
    """
    tokens = [_earlier_events(events, i) for i in flagged]
    token_C = np.concatenate([np.empty(0, np.int64), *tokens])
    row_C = np.repeat(flagged, [len(one) for one in tokens])
    reasons: dict[int, list[ScoreReason]] = defaultdict(list)
    if not len(token_C):
        return reasons
    lists = events.without_event(row_C, events.user_lists.event[token_C])
    log_odds_C = model.log_odds(model.matrix(model.features(lists)))
    drop_C = model.log_odds(x_nF)[row_C] - log_odds_C
    for c in np.argsort(-drop_C, kind="stable").tolist():
        of_row = reasons[int(row_C[c])]
        if drop_C[c] >= MIN_WEIGHT and len(of_row) < MAX_EARLIER_EVENTS:
            amount = float(events.user_lists.amount[token_C[c]])
            event = _describe_event(events.user_lists, token_C[c])
            score = probability(log_odds_C[c])
            sentence = f"without {event} the score would be {score:.2f}"
            of_row.append(ScoreReason(EARLIER_EVENT, amount, None, sentence, float(drop_C[c])))
    return reasons


def _earlier_events(events: EventLists, i: int) -> np.ndarray:
    """Returns token indices of the user's newest events before this one."""
    lists = events.user_lists
    indices = np.arange(lists.starts[i], lists.starts[i + 1])
    earlier = is_event(lists.letter[indices]) & (lists.time_ms[indices] <= events.event_ms[i])
    return indices[earlier & (lists.event[indices] != lists.event[indices[-1:]])][
        -MAX_OCCLUDED_EVENTS:
    ]


def _describe_event(lists: TokenLists, index: int) -> str:
    event = EVENT_TYPES[TYPE_LETTERS.index(chr(lists.letter[index]))]
    when = f"{datetime.fromtimestamp(lists.time_ms[index] / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    amount = f" of {lists.amount[index]:,.2f}" if lists.amount[index] else ""
    return f"the {event}{amount} at {when}"
