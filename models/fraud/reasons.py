"""Why an event got its score: what the score would be were one thing as usual.

Occlusion: the features of a group that mean one thing to a person take their usual values (medians
of legitimate events), the event is scored again, and by as much as its log-odds fall the group is a
reason. So are earlier events of the user, by the score without them. For flagged events only: one
costs about as much as scoring fifty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from models.fraud.event_model import ANY_TYPE, EventModel, probability
from models.fraud.reason_groups import Group, groups
from udfs.event_features import NAMES, SCORED_TYPES, Rows, TokenLists, from_rows
from udfs.event_features.lists import is_event
from udfs.events import EVENT_TYPES, TYPE_LETTERS

REASONS = 3
EVENTS = 2
NEWEST = 16  # so many of the user's events are tried
LEAST_DROP = 0.1  # log-odds: what matters less is no reason
EARLIER_EVENT = "EARLIER_EVENT"


class Reason(NamedTuple):
    code: str
    value: float | None  # None: not known
    usual: float | None
    sentence: str
    drop: float  # of log-odds

    def as_dict(self) -> dict[str, Any]:
        """As a flag stores it."""
        return {name: getattr(self, name) for name in ("code", "value", "usual", "sentence")}


def explain(
    model: EventModel, rows: Rows, x_nF: np.ndarray, flagged: np.ndarray, limit: int = REASONS
) -> list[list[Reason]]:
    """For each of the flagged places, its reasons, the strongest first, then its earlier events.

    `x_nF`: the model's matrix of the rows' features.
    """
    known = groups(model.names)
    flagged = np.asarray(flagged, np.int64)
    return [
        _reasons(model, known, x_nF[i], _type(rows, i), limit) + events
        for i, events in zip(flagged, _events(model, rows, x_nF, flagged), strict=True)
    ]


def drops(
    model: EventModel, x_F: np.ndarray, parts: list[list[int]], usual_F: np.ndarray
) -> np.ndarray:
    """(P,) by how much the log-odds fall if the features of a part are as usual.

    A part of which nothing is known stays as it is: an event without a coupon has none as usual.
    """
    tried_PF = np.tile(x_F, (len(parts) + 1, 1))
    for p, part in enumerate(parts, 1):
        if not np.isnan(x_F[part]).all():
            tried_PF[p, part] = usual_F[part]
    log_odds = model.log_odds(tried_PF)
    return log_odds[0] - log_odds[1:]


def faithfulness(
    model: EventModel, x_nF: np.ndarray, types: list[str], seed: int = 0
) -> dict[str, float]:
    """Mean fall of the log-odds of flagged events if the top reason is as usual, and if another
    group of features is that was drawn by chance: a reason that means something falls far more.
    Of no events there is no mean."""
    if not types:
        return {"events": 0}
    random = np.random.default_rng(seed)
    parts = [group.features for group in groups(model.names)]
    top, drawn = [], []
    for x_F, event_type in zip(x_nF, types, strict=True):
        drop_P = drops(model, x_F, parts, model.usual_of(event_type))
        top.append(drop_P.max())
        drawn.append(random.choice(drop_P))
    return {"events": len(top), "top": float(np.mean(top)), "random": float(np.mean(drawn))}


def _reasons(
    model: EventModel, known: list[Group], x_F: np.ndarray, event_type: str, limit: int
) -> list[Reason]:
    usual_F = model.usual_of(event_type)
    drop_G = drops(model, x_F, [group.features for group in known], usual_F)
    strongest = [g for g in np.argsort(-drop_G, kind="stable")[:limit] if drop_G[g] >= LEAST_DROP]
    # What is told of a group is the one feature that alone matters most.
    told = [(g, f) for g in strongest for f in known[g].told if not np.isnan(x_F[f])]
    alone = drops(model, x_F, [[f] for _, f in told], usual_F) if told else []
    found = []
    for g in strongest:
        own = [(drop, f) for (of, f), drop in zip(told, alone, strict=True) if of == g]
        place = max(own, key=lambda one: one[0])[1] if own else known[g].told[0]
        value, usual = _known(x_F[place]), _known(usual_F[place])
        sentence = _sentence(known[g], model.names[place], value, usual)
        found.append(Reason(known[g].code, value, usual, sentence, float(drop_G[g])))
    return found


def _sentence(group: Group, name: str, value: float | None, usual: float | None) -> str:
    unit, words = NAMES[name]
    words = words.split(": ", 1)[-1]
    if unit == "0/1" and value:
        return f"{group.title}: {words}"
    usually = "" if usual is None else f", usually {_told(usual, unit)}"
    return f"{group.title}: {words}: {_told(value, unit)}{usually}"


def _told(value: float | None, unit: str) -> str:
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


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.6g}")


def _type(rows: Rows, i: int) -> str:
    name = EVENT_TYPES[TYPE_LETTERS.index(chr(rows.letter[i]))]
    return name if name in SCORED_TYPES else ANY_TYPE


def _events(
    model: EventModel, rows: Rows, x_nF: np.ndarray, flagged: np.ndarray
) -> list[list[Reason]]:
    """For each of the flagged rows the user's earlier events without which the score is lowest."""
    tokens = [_earlier(rows, i) for i in flagged]
    token_C = np.concatenate([np.empty(0, np.int64), *tokens])
    if not len(token_C):
        return [[] for _ in flagged]
    row_C = np.repeat(flagged, [len(one) for one in tokens])
    tried = rows.without(row_C, rows.of_user.event[token_C])
    log_odds_C = model.log_odds(model.matrix(from_rows(tried, model.delay_days)))
    drop_C = model.log_odds(x_nF)[row_C] - log_odds_C
    found = []
    for i in flagged:
        own = np.flatnonzero(row_C == i)
        strongest = own[np.argsort(-drop_C[own], kind="stable")[:EVENTS]]
        found.append(
            [
                _event(rows.of_user, token_C[c], float(drop_C[c]), probability(log_odds_C[c]))
                for c in strongest
                if drop_C[c] >= LEAST_DROP
            ]
        )
    return found


def _earlier(rows: Rows, i: int) -> np.ndarray:
    """Places of the user's newest events before this one."""
    lists = rows.of_user
    places = np.arange(lists.starts[i], lists.starts[i + 1])
    earlier = is_event(lists.letter[places]) & (lists.time_ms[places] <= rows.event_ms[i])
    return places[earlier & (lists.event[places] != lists.event[places[-1:]])][-NEWEST:]


def _event(lists: TokenLists, place: int, drop: float, score: float) -> Reason:
    what = EVENT_TYPES[TYPE_LETTERS.index(chr(lists.letter[place]))]
    when = f"{datetime.fromtimestamp(lists.time_ms[place] / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    amount = f" of {lists.amount[place]:,.2f}" if lists.amount[place] else ""
    sentence = f"without the {what}{amount} at {when} the score would be {score:.2f}"
    return Reason(EARLIER_EVENT, float(lists.amount[place]), None, sentence, drop)
