"""Sentences about the events of a window."""

from __future__ import annotations

from typing import Any

from console.formats import sentence
from console.views.explanation import SHOWN_EVENTS, Value, explanation_page
from liveprofile.client.explanation_models import Explanation
from tests.support.memory.explainer import EVENTS, NAMES, explanation

END_MS = 1_511_658_300_000


def values_of(**changed: Any) -> list[Value]:
    found = Explanation.model_validate(explanation("u", END_MS, **changed))
    return explanation_page(found).values


def event(**changed: Any) -> dict[str, Any]:
    return dict(zip(NAMES, EVENTS[2], strict=True)) | {"time_ms": END_MS} | changed


def test_events_are_in_order_of_effect_with_a_sentence_each() -> None:
    churn, spend, interests = values_of()
    assert churn.summary == "28 % before the window, 23 % after it."
    assert churn.sentences == [
        "Without this purchase of espresso (coffee, 12.5, 01:04:59), the risk of churn would be 4"
        " points higher.",
        "Without this view of <i>9</i> (tea, 01:04:59), the risk of churn would be 0.2 points"
        " lower.",
    ]
    assert churn.rest == "Of the other events, 2 have no effect."
    assert [each.rpartition(", ")[2] for each in spend.sentences] == [
        "the expected spend would be 3.5 lower.",
        "the expected spend would be 0.25 higher.",
    ]
    assert interests.summary == "Largest after the window: coffee (50 %)."
    assert interests.sentences[0].endswith("the share of coffee would be 20 % instead of 50 %.")
    assert "Without this view" in interests.sentences[1]


def test_small_effects_are_not_told_as_nothing() -> None:
    effects = [
        event(event_type="cart", churn=0.0004, expected_spend=-0.001, interests=1e-6),
        event(event_type="login", churn=-0.01),
    ]
    churn, spend, interests = values_of(effects=effects, events=2)
    assert churn.sentences == [
        "Without this login (01:05:00), the risk of churn would be 1 point higher.",
        "Without this addition to the cart (01:05:00), the risk of churn would be less than 0.1"
        " points lower.",
    ]
    assert spend.sentences[0].endswith("would be less than 0.01 higher.")
    assert interests.sentences[0].endswith("shares would differ by less than 1 %.")


def test_window_without_effects_and_without_interests() -> None:
    stored = {"churn": 0.5, "expected_spend": 1.0, "interests": {}}
    before = {"churn": None, "expected_spend": None}
    churn, _, interests = values_of(effects=[event()], events=1, stored=stored, before=before)
    assert (churn.sentences, churn.rest) == ([], "No event of the window changes this value.")
    assert churn.summary == "– before the window, 50 % after it."
    assert "does not allow recommendations" in interests.summary


def test_large_window_says_what_it_leaves_out() -> None:
    effects = [event(churn=number / 1_000) for number in range(1, 31)]
    found = Explanation.model_validate(explanation("u", END_MS, effects=effects, events=700))
    page = explanation_page(found)
    assert page.note == "Only the newest 30 events are explained."
    assert len(page.values[0].sentences) == SHOWN_EVENTS
    assert page.values[0].rest == "Of the other events, 20 have a smaller effect."


def test_error_becomes_a_sentence() -> None:
    assert sentence("the user was erased") == "The user was erased."
    assert sentence("") == ""
