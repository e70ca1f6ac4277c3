"""Why an event got its score: what the score would be were one thing as usual.

Occlusion: the features of a group that mean one thing to a person take their usual values (medians
of legitimate events), the event is scored again, and by as much as its log-odds fall the group is a
reason. So are earlier events of the user, by the score without them. Of the sequence model's
log-odds the reason names the event without which they would fall the most. For flagged events only:
one costs about as much as scoring fifty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from liveprofile.features.entity import NAMES, SCORED_TYPES, Rows, TokenLists
from liveprofile.features.entity.lists import is_event
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_LETTERS
from models.fraud.explain.reason_groups import Group, groups
from models.fraud.model import ANY_TYPE, SEQUENCE, EventModel, probability

REASONS = 3
EVENTS = 2
NEWEST = 16  # so many of the user's events are tried
LEAST_DROP = 0.1  # log-odds: what matters less is no reason
EARLIER_EVENT = "EARLIER_EVENT"


class Tried(NamedTuple):
    """C earlier events of flagged rows, and what the score would be without each."""

    row_C: np.ndarray  # place of the flagged event
    token_C: np.ndarray  # place in its user's list
    log_odds_C: np.ndarray
    drop_C: np.ndarray  # of log-odds
    sequence_drop_C: np.ndarray  # of the sequence model's log-odds; 0 without one

    def strongest(self, row: int, drop_C: np.ndarray, count: int) -> list[int]:
        """Places of the row's events whose drop is the largest, and large enough to tell."""
        own = np.flatnonzero(self.row_C == row)
        own = own[np.argsort(-drop_C[own], kind="stable")[:count]]
        return [c for c in own.tolist() if drop_C[c] >= LEAST_DROP]


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
    known = groups(tuple(model.names))
    flagged = np.asarray(flagged, np.int64)
    tried = _tried(model, rows, x_nF, flagged)
    return [
        _reasons(model, known, x_nF[i], _type(rows, i), limit, _order(rows, tried, i))
        + _events(rows, tried, i)
        for i in flagged.tolist()
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
    parts = [group.features for group in groups(tuple(model.names))]
    top, drawn = [], []
    for x_F, event_type in zip(x_nF, types, strict=True):
        drop_P = drops(model, x_F, parts, model.usual_of(event_type))
        top.append(drop_P.max())
        drawn.append(random.choice(drop_P))
    return {"events": len(top), "top": float(np.mean(top)), "random": float(np.mean(drawn))}


def _reasons(
    model: EventModel,
    known: tuple[Group, ...],
    x_F: np.ndarray,
    event_type: str,
    limit: int,
    order: str,
) -> list[Reason]:
    """order: what is told of the sequence model."""
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
        name = model.names[place]
        about = order if name == SEQUENCE else _words(name, value, usual)
        sentence = f"{known[g].title}: {about}"
        found.append(Reason(known[g].code, value, usual, sentence, float(drop_G[g])))
    return found


def _words(name: str, value: float | None, usual: float | None) -> str:
    unit, words = NAMES[name]
    words = words.split(": ", 1)[-1]
    if unit == "0/1" and value:
        return words
    usually = "" if usual is None else f", usually {_told(usual, unit)}"
    return f"{words}: {_told(value, unit)}{usually}"


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


def _tried(model: EventModel, rows: Rows, x_nF: np.ndarray, flagged: np.ndarray) -> Tried:
    """The score without each of the newest earlier events of each user."""
    tokens = [_earlier(rows, i) for i in flagged]
    token_C = np.concatenate([np.empty(0, np.int64), *tokens])
    row_C = np.repeat(flagged, [len(one) for one in tokens])
    if not len(token_C):
        return Tried(row_C, token_C, *np.empty((3, 0)))
    columns = model.columns(rows.without(row_C, rows.of_user.event[token_C]))
    log_odds_C = model.log_odds(model.matrix(columns))
    sequence_drop_C = np.zeros(len(token_C))
    if model.sequence is not None:
        sequence_drop_C = x_nF[row_C, model.names.index(SEQUENCE)] - columns[SEQUENCE]
    drop_C = model.log_odds(x_nF)[row_C] - log_odds_C
    return Tried(row_C, token_C, log_odds_C, drop_C, sequence_drop_C)


def _events(rows: Rows, tried: Tried, i: int) -> list[Reason]:
    """The user's earlier events without which the score is lowest."""
    found = []
    for c in tried.strongest(i, tried.drop_C, EVENTS):
        amount = float(rows.of_user.amount[tried.token_C[c]])
        what = _told_event(rows.of_user, tried.token_C[c])
        score = probability(tried.log_odds_C[c])
        sentence = f"without {what} the score would be {score:.2f}"
        found.append(Reason(EARLIER_EVENT, amount, None, sentence, float(tried.drop_C[c])))
    return found


def _order(rows: Rows, tried: Tried, i: int) -> str:
    """What a person is told of the sequence model's log-odds."""
    count = int((tried.row_C == i).sum())
    if not count:
        return "no earlier event of this user is known"
    unlike = f"the last {count + 1} events are unlike those of honest users"
    strongest = tried.strongest(i, tried.sequence_drop_C, 1)
    if not strongest:
        return f"{unlike}, all of them together"
    return f"{unlike}, most of all {_told_event(rows.of_user, tried.token_C[strongest[0]])}"


def _earlier(rows: Rows, i: int) -> np.ndarray:
    """Places of the user's newest events before this one."""
    lists = rows.of_user
    places = np.arange(lists.starts[i], lists.starts[i + 1])
    earlier = is_event(lists.letter[places]) & (lists.time_ms[places] <= rows.event_ms[i])
    return places[earlier & (lists.event[places] != lists.event[places[-1:]])][-NEWEST:]


def _told_event(lists: TokenLists, place: int) -> str:
    what = EVENT_TYPES[TYPE_LETTERS.index(chr(lists.letter[place]))]
    when = f"{datetime.fromtimestamp(lists.time_ms[place] / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    amount = f" of {lists.amount[place]:,.2f}" if lists.amount[place] else ""
    return f"the {what}{amount} at {when}"
