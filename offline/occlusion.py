"""Which events of a window moved the stored values: the model on the window without each of them.

The effect of an event is the stored value minus the one that the model gives if the event is
missing and nothing else changes (occlusion of one input: Zeiler and Fergus 2014, arXiv:1311.2901;
as an explanation by removal: Covert and others 2021, arXiv:2011.14878). It is computed on request,
not in the job. Effects do not add up: two events that say the same have a small effect each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.events.window import parse_windows
from liveprofile.features import baselines
from liveprofile.features.affinity import divergence_parts
from liveprofile.wire import window_events
from liveprofile.wire.histories import MemoryToken, history_without, read_purchases
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX, Token
from liveprofile.wire.window_events import WindowEvent, as_id, load
from udfs.profile.batch import ProfileBatch
from udfs.profile.decide import probabilities_by_name
from udfs.profile.inputs import read_inputs, score

if TYPE_CHECKING:  # torch is slow to import
    from models.profile.inference import ProfileModel, Scores
    from models.profile.text_encoder import TextEncoder

TARGETS = ("churn", "expected_spend", "interests")
MOST_EVENTS = 500  # of a window whose effects are computed: the newest
PART_ROWS = 64  # windows parsed at a time
MOVED_INTERESTS = 3


class ServedValues(NamedTuple):
    """What is stored of a window, at its end."""

    churn: float
    expected_spend: float
    interests: dict[str, float]  # the largest shares


class EventEffect(NamedTuple):
    """What an event of the window changes in the stored values."""

    event_id: str
    time_ms: int
    event_type: str
    item: str
    category: str
    amount: float
    churn: float  # the stored value minus that without the event
    expected_spend: float
    interests: float  # divergence of the stored shares from those without it: nats, at least 0
    # (category, share without the event, stored share), the largest parts of it first.
    moved_interests: list[tuple[str, float, float]]


class WindowEffects(NamedTuple):
    """The effects of a window's events."""

    events: int  # that the window used
    served: ServedValues
    effects: list[EventEffect]  # of the newest MOST_EVENTS events, in order of time

    def strongest(self, target: str, count: int) -> list[EventEffect]:
        """The events that move one of TARGETS most. Without those that do not move it."""
        moving = [effect for effect in self.effects if getattr(effect, target)]
        return sorted(moving, key=lambda effect: -abs(getattr(effect, target)))[:count]


class _UsedEvent(NamedTuple):
    event: WindowEvent
    token: Token


def occlusion_effects(
    row: ProfileBatch,
    earlier: ProfileBatch | None,
    model: ProfileModel,
    encode_texts: TextEncoder | None = None,
) -> WindowEffects:
    """The effects of the events of a window.

    row: one row, the input of `update_profile`. earlier: that of the user's window before it; None:
    there is none. What is stored without the only event of a window is that of the earlier one, as
    it is at the end of this one. Raises ValueError if no event of the window can be used.
    """
    used = _used_events(row.events[0])
    if not used:
        raise ValueError("a window without events")
    [served] = served_values(row, model, encode_texts)
    chosen = used[-MOST_EVENTS:]
    if len(used) == 1:
        without = [_without_window(row, earlier, model, encode_texts)]
    else:
        without = []
        for first in range(0, len(chosen), PART_ROWS):
            rows = without_each(row, chosen[first : first + PART_ROWS], used, model.decay_days)
            without += served_values(rows, model, encode_texts)
    effects = [_effect(each, served, other) for each, other in zip(chosen, without, strict=True)]
    return WindowEffects(len(used), served, effects)


def served_values(
    batch: ProfileBatch, model: ProfileModel, encode_texts: TextEncoder | None = None
) -> list[ServedValues]:
    """What the job stores of each row. Each window has an event that can be used."""
    scores = _score(batch, model, encode_texts)
    interests = probabilities_by_name(
        model.categories, scores.interests_after, scores.interests_after_p
    )
    columns = zip(scores.churn_after.tolist(), scores.spend_after.tolist(), interests, strict=True)
    return [ServedValues(*values) for values in columns]


def without_each(
    row: ProfileBatch, missing: Sequence[_UsedEvent], used: Sequence[_UsedEvent], decay_days: float
) -> ProfileBatch:
    """The row as it were without each of some events: a row for each.

    used: all events of the row's window, at least two.
    """
    count, [end_ms] = len(missing), row.window_end_ms.tolist()
    tokens = [each.token for each in missing]
    added = baselines.added_without(
        row.added[0],
        np.array([_is_purchase(token) for token in tokens], np.float64),
        np.array([token.amount for token in tokens]),
        np.array([token.time_ms for token in tokens], np.int64),
        end_ms,
        decay_days,
    )
    last_before_ms, _ = read_purchases(row.purchases[0], int(row.window_start_ms[0]))
    texts, histories, purchases = [], [], []
    for each in missing:
        others = [other for other in used if other is not each]
        texts.append(window_events.join(other.event for other in others))
        purchases_ms = [other.token.time_ms for other in others if _is_purchase(other.token)]
        last_ms = (last_before_ms, max(purchases_ms, default=0))
        purchases.append(" ".join(str(time_ms) for time_ms in last_ms if time_ms))
        token = MemoryToken(each.token.type_index, each.token.item, each.token.category)
        histories.append(history_without(row.history[0], token))
    return ProfileBatch(
        row.user_id * count,
        np.repeat(row.window_start_ms, count),
        np.repeat(row.window_end_ms, count),
        texts,
        histories,
        purchases,
        added,
        row.sums - row.added + added,
        row.attribute_tiles * count,
    )


def _without_window(
    row: ProfileBatch,
    earlier: ProfileBatch | None,
    model: ProfileModel,
    encode_texts: TextEncoder | None,
) -> ServedValues:
    scores = _score(row, model, encode_texts)
    interests = served_values(earlier, model, encode_texts)[0].interests if earlier else {}
    return ServedValues(float(scores.churn_before[0]), float(scores.spend_before[0]), interests)


def _used_events(text: str) -> list[_UsedEvent]:
    """The events of a window that can be used, in order of time."""
    events = list(window_events.parse(text))
    windows, kept, _ = parse_windows([window_events.join([event]) for event in events])
    tokens = windows.tokens
    columns = (
        tokens.time_ms.tolist(),
        tokens.type_index.tolist(),
        tokens.item,
        tokens.category,
        tokens.amount.tolist(),
    )
    used = [
        _UsedEvent(events[index], Token(*values))
        for index, *values in zip(kept, *columns, strict=True)
    ]
    return sorted(used, key=lambda each: each.token)


def _is_purchase(token: Token) -> bool:
    return token.type_index == TYPE_INDEX["purchase"]


def _score(batch: ProfileBatch, model: ProfileModel, encode_texts: TextEncoder | None) -> Scores:
    """Calls the model as `ProfileUpdater` does."""
    return score(read_inputs(batch, model, texts=encode_texts is not None), model, encode_texts)


def _effect(used: _UsedEvent, served: ServedValues, without: ServedValues) -> EventEffect:
    token = used.token
    names, before, after = _both_shares(without.interests, served.interests)
    parts = divergence_parts(before, after)
    moved = [index for index in np.argsort(-parts, kind="stable") if parts[index]]
    return EventEffect(
        as_id(load(used.event.payload)["event_id"]),
        token.time_ms,
        EVENT_TYPES[token.type_index],
        token.item,
        token.category,
        token.amount,
        served.churn - without.churn,
        served.expected_spend - without.expected_spend,
        float(parts.sum()),
        [
            (names[index], float(before[index]), float(after[index]))
            for index in moved[:MOVED_INTERESTS]
        ],
    )


def _both_shares(
    before: dict[str, float], after: dict[str, float]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The shares of all categories of either side, by name.

    Only the largest shares are stored. Another one counts as the smallest of them, or as the share
    of the other side if that is smaller: so a change of places alone is no change.
    """
    names = sorted({*before, *after})
    sides = []
    for own, other in ((before, after), (after, before)):
        least = min(own.values(), default=0.0)
        sides.append([own[name] if name in own else min(least, other[name]) for name in names])
    return names, *map(np.array, sides)
