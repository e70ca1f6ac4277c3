"""Tokens in the history of the reference."""

from __future__ import annotations

import pytest

from tests.reference.history import TOKEN_CHARS, double_text, token_text, window_tokens
from tests.support.streams.strategies import START_MS
from tests.unit.reference.examples import (
    validated,
)


def test_history_keeps_the_last_characters_of_a_window() -> None:
    arrived = [validated(event_id=str(number), item_id="i" * 78) for number in range(60)]
    size = len(token_text(window_tokens(arrived[:1])[0])) + 1
    assert size == 100
    # 40 tokens and their 39 separators fit. Of 41 the first would be partial.
    assert len(window_tokens(arrived[:40])) == 40
    assert len(window_tokens(arrived[:41])) == 40
    assert window_tokens(arrived) == window_tokens(arrived[-40:])


def test_history_with_the_longest_ids_keeps_whole_tokens() -> None:
    longest = [
        validated(event_id=str(number), item_id="i" * 300, category_id="c" * 300)
        for number in range(10)
    ]
    size = len(token_text(window_tokens(longest[:1])[0])) + 1
    assert (longest[0].item, longest[0].category) == ("i" * 256, "c" * 256)
    assert len(window_tokens(longest)) == TOKEN_CHARS // size == 7


def test_history_is_truncated_by_arrival_and_ordered_by_time() -> None:
    newest_first = [
        validated(event_id=str(number), item_id="i" * 78, event_time=START_MS - number)
        for number in range(60)
    ]
    times = [token.time_ms for token in window_tokens(newest_first)]
    assert times == [START_MS - number for number in range(59, 19, -1)]


def test_history_has_the_same_order_for_any_arrival() -> None:
    basket = [validated(event_id=str(number), item_id=number % 3) for number in range(6)]
    assert window_tokens(basket) == window_tokens(basket[::-1])
    assert [token.item for token in window_tokens(basket)] == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (12.0, "12.0"),
        (-0.25, "-0.25"),
        (0.001, "0.001"),
        (9_999_999.5, "9999999.5"),
        (1e7, "1.0E7"),
        (1.25e18, "1.25E18"),
        (-2.5e-4, "-2.5E-4"),
        (123456789.25, "1.2345678925E8"),
    ],
)
def test_amount_in_token_is_in_java_notation(value: float, text: str) -> None:
    assert double_text(value) == text
