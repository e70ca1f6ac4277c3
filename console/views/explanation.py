"""An explanation of a window as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import NamedTuple

from console.formats import listed, number, share, utc, words
from liveprofile.client.analysis_models import ExplainedEvent, Explanation

SHOWN_EVENTS = 10
NAMED_INTERESTS = 3
SMALLEST_POINTS = 0.1
# What is not said by the name of the type.
DEEDS = {"cart": "addition to the cart", "favorite": "addition to the favourites"}


class Value(NamedTuple):
    """What the events of a window did to one value, the strongest first."""

    heading: str
    summary: str
    sentences: list[str]
    rest: str  # about the events without a sentence


def explained_values(found: Explanation) -> list[Value]:
    before, stored = found.before, found.stored
    churn = f"{share(before.churn)} before the window, {share(stored.churn)} after it."
    spend = number(before.expected_spend), number(stored.expected_spend)
    return [
        Value("Risk of churn", churn, *_sentences(found, "churn", _churn)),
        Value(
            "Expected spend",
            "{} before the window, {} after it.".format(*spend),
            *_sentences(found, "expected_spend", _spend),
        ),
        Value(
            "Interests",
            _strongest(stored.interests),
            *_sentences(found, "interests", _interests),
        ),
    ]


def _strongest(interests: Mapping[str, float]) -> str:
    if not interests:
        return "None are stored, or the user does not allow recommendations."
    top = sorted(interests, key=lambda name: -interests[name])[:NAMED_INTERESTS]
    named = [f"{name} ({share(interests[name])})" for name in top]
    return f"Largest after the window: {listed(named)}."


def _sentences(
    found: Explanation, value: str, sentence: Callable[[ExplainedEvent], str]
) -> tuple[list[str], str]:
    """The sentences of the events that move a value most, and what is said of the others."""
    effect = attrgetter(value)
    moving = sorted(filter(effect, found.effects), key=lambda each: -abs(effect(each)))
    if not moving:
        return [], "No event of the window changes this value."
    weaker, still = len(moving[SHOWN_EVENTS:]), len(found.effects) - len(moving)
    parts = [f"{weaker} have a smaller effect"] if weaker else []
    parts += [f"{still} have no effect"] if still else []
    return (
        [f"Without {_event(each)}, {sentence(each)}." for each in moving[:SHOWN_EVENTS]],
        f"Of the other events, {listed(parts)}." if parts else "",
    )


def _event(event: ExplainedEvent) -> str:
    what = f"this {DEEDS.get(event.event_type, words(event.event_type))}"
    if event.item:
        what += f" of {event.item}"
    details = [event.category] if event.category else []
    details += [number(event.amount)] if event.amount else []
    details.append(utc(event.time_ms).partition(" ")[2])
    return f"{what} ({', '.join(details)})"


def _churn(event: ExplainedEvent) -> str:
    points = 100 * abs(event.churn)
    if points < SMALLEST_POINTS:
        amount = f"less than {SMALLEST_POINTS} points"
    else:
        text = number(points, 1)
        amount = f"{text} point{'' if text == '1' else 's'}"
    return f"the risk of churn would be {amount} {_direction(event.churn)}"


def _spend(event: ExplainedEvent) -> str:
    text = number(abs(event.expected_spend))
    amount = "less than 0.01" if text == "0" else text
    return f"the expected spend would be {amount} {_direction(event.expected_spend)}"


def _interests(event: ExplainedEvent) -> str:
    moved = [
        f"{category} would be {share(without)} instead of {share(stored)}"
        for category, without, stored in event.moved_interests
        if share(without) != share(stored)
    ]
    return f"the share of {listed(moved)}" if moved else "shares would differ by less than 1 %"


def _direction(effect: float) -> str:
    """Of the value without the event against the stored one."""
    return "higher" if effect < 0 else "lower"
