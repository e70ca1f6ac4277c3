"""Event features against plain Python (tests/reference/), and category affinity."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveprofile.features.affinity import category_affinity
from liveprofile.features.entity import (
    EVENT_FEATURES,
    EventBatch,
    InvalidListsError,
    features_from_lists,
    parse_lists,
)
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from tests.reference.entity_features import (
    ENTITIES,
    TYPE_LETTERS,
    Arrival,
    Event,
    Label,
    entity_list,
    features,
    list_text,
)
from tests.reference.units import DAY_MS, HOUR_MS

START = 1_532_000_000_000
OWNERS = ("user", *ENTITIES)


def batch(arrivals: list[Arrival], rows: list[int], keep: int = 128) -> EventBatch:
    events = [arrivals[row] for row in rows]
    of_user, *of_entities = (
        [list_text(entity_list(arrivals, row, owner, keep), owner) for row in rows]
        for owner in OWNERS
    )
    return EventBatch(
        [one.user for one in events],
        [one.id for one in events],
        [one.type for one in events],
        np.array([one.time_ms for one in events], np.int64),
        np.array([one.amount for one in events], np.float64),
        tuple([getattr(one, name) for one in events] for name in ENTITIES),
        np.array(rows, np.int64),
        np.zeros(len(rows), np.int64),
        of_user,
        tuple(of_entities),
    )


def compute_features(rows: EventBatch, delay_days: float = 7.0) -> dict[str, np.ndarray]:
    columns = features_from_lists(parse_lists(rows), delay_days).T
    return dict(zip(EVENT_FEATURES, columns, strict=True))


def scored(arrivals: list[Arrival]) -> list[int]:
    """Returns the rows of events that are not duplicates of an earlier one."""
    seen, rows = set(), []
    for row, one in enumerate(arrivals):
        if isinstance(one, Event) and one.id not in seen:
            seen.add(one.id)
            rows.append(row)
    return rows


def assert_same(arrivals: list[Arrival], keep: int, delay_days: float) -> None:
    rows = scored(arrivals)
    found = compute_features(batch(arrivals, rows, keep), delay_days)
    for place, row in enumerate(rows):
        expected = features(arrivals, row, keep, delay_days)
        assert set(expected) == set(EVENT_FEATURES)
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), (
                name,
                row,
            )


@st.composite
def arrival_lists(draw: st.DrawFn) -> list[Arrival]:
    """Events mostly in order of time, with duplicates, late events, and labels."""
    some = st.sampled_from
    now, arrivals, events = START, [], []
    for number in range(draw(st.integers(1, 25))):
        now += draw(
            some([0, 1_000, 59_000, 20 * 60_000, 3 * HOUR_MS, DAY_MS, 5 * DAY_MS, 16 * DAY_MS])
        )
        what = draw(some(["event"] * 6 + ["late", "copy", "clash", "label", "label"]))
        if events and what == "copy":
            arrivals.append(draw(some(events)))
        elif events and what == "clash":  # two events whose ids have the same hash
            arrivals.append(draw(some(events))._replace(time_ms=now))
        elif events and what == "label":
            arrivals.append(Label(draw(some(events)), draw(st.booleans()), now))
        else:
            event = Event(
                f"e{number}",
                draw(some(["u1", "u2"])),
                draw(some(["purchase"] * 4 + sorted(TYPE_LETTERS))),
                now - (draw(st.integers(1, 3)) * HOUR_MS if what == "late" else 0),
                draw(some([0.0, 0.5, 2.0, 19.99, 20.0, 480.0, 1e9])),
                *(draw(some(["", "a", "b"])) for _ in ENTITIES),
            )
            events.append(event)
            arrivals.append(event)
            if draw(st.integers(0, 9)) == 0:  # a label with a wrong clock, before its event
                arrivals.append(Label(event, True, event.time_ms - HOUR_MS))
    return arrivals


@pytest.mark.slow
@given(arrival_lists(), st.sampled_from([1, 3, 128]), st.sampled_from([0, 1, 7]))
@settings(max_examples=40, deadline=None)
def test_features_match_the_reference(arrivals: list[Arrival], keep: int, delay_days: int) -> None:
    if scored(arrivals):
        assert_same(arrivals, keep, delay_days)


def a_day() -> list[Arrival]:
    """A user makes two usual purchases, then one on a device that three other users use."""
    quiet = [Event(f"q{n}", "u", "purchase", START + n * HOUR_MS, 20.0, "own") for n in range(2)]
    others = [
        Event(f"o{n}", f"v{n}", "login", START + 3 * HOUR_MS + 1 + n, device="d") for n in range(3)
    ]
    return [*quiet, *others, Event("x", "u", "purchase", START + 4 * HOUR_MS, 200.0, "d")]


def test_row_does_not_depend_on_its_batch() -> None:
    """Rows are equal bit by bit, even next to amounts that exceed a double's precision."""
    rich = [Event(f"r{n}", "rich", "purchase", START + n, 1e9 - n, "r") for n in range(120)]
    arrivals = [*rich, *a_day()]
    rows = scored(arrivals)
    together = compute_features(batch(arrivals, rows))
    for place in (0, 119, len(rows) - 1):
        alone = compute_features(batch(arrivals, [rows[place]]))
        for name in EVENT_FEATURES:
            assert np.array_equal(together[name][place], alone[name][0], equal_nan=True), name


def test_empty_lists_and_batches_are_accepted() -> None:
    rows = batch(a_day(), [0])
    found = compute_features(rows._replace(of_user=[""], of_entities=([""],) * len(ENTITIES)))
    assert found["user_events_30d"][0] == 0
    assert np.isnan(found["user_amount_ratio"][0])
    assert all(len(values) == 0 for values in compute_features(batch([], [])).values())


@pytest.mark.parametrize(
    "text", ["d\x1f1", "d\x1fnoon\x1f1\x1f1\x1f\x1f\x1f\x1f\x1f", "nonsense", "\x1e"]
)
def test_invalid_list_is_rejected(text: str) -> None:
    with pytest.raises(InvalidListsError):
        compute_features(batch(a_day(), [0])._replace(of_user=[text]))


def tokens(day: int, categories: list[str]) -> list[Token]:
    return [Token(day * DAY_MS + DAY_MS // 2, 0, "", category, 0.0) for category in categories]


def affinity(history: list[Token], window: list[Token], day: int = 9):
    """Of one row, whose window is the day."""
    columns = (TokenColumns.of([history]), TokenColumns.of([window]))
    start_ms, end_ms = np.array([day * DAY_MS]), np.array([(day + 1) * DAY_MS])
    return category_affinity(*columns, start_ms, end_ms, 30.0)


def test_divergence_of_equal_shares_is_0_and_of_disjoint_ones_log_2() -> None:
    same = affinity(tokens(3, ["a", "b"]), tokens(9, ["a", "b"]))
    assert same.divergence == [0.0]
    # The history fades, so that all that is left of it is below the rounding.
    other = affinity(tokens(3, ["a"]), tokens(999, ["b"]), day=999)
    assert other.divergence == [pytest.approx(math.log(2), abs=1e-6)]


@pytest.mark.parametrize(("history", "window"), [([], ["a"]), ([""], ["a"]), ([], [])])
def test_no_category_before_or_after_gives_no_divergence(
    history: list[str], window: list[str]
) -> None:
    assert affinity(tokens(3, history), tokens(9, window)).divergence == [None]
