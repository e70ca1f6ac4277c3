"""Flags of events that come in any order and in any batches, with failures between them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from liveprofile.rules import flag_policy
from liveprofile.rules.flag_policy import FlagPolicy, RuleEvaluation
from liveprofile.rules.flags import Flag, RowPosition
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.memory.sinks import MemoryScoringSink
from tests.support.rows.rule_examples import event_columns, rule
from tests.support.rows.scored_events import START_MS, scored_event

RULES = (rule(), rule(id="free", cool_down_hours=0))
CUTS, KILLS = 1_000, 200


class Store:
    """Evaluates batches as the scoring pipeline does, with the store of its tests."""

    def __init__(self) -> None:
        self.sink = MemoryScoringSink()
        self._policy = FlagPolicy(self.sink)

    def evaluate(self, rows: Sequence[RuleEvaluation]) -> list[Flag]:
        """Stores the rows with their flags and returns the flags, which are not sent yet."""
        raised = self._policy.raise_flags(rows, "1")
        self.sink.write(
            [
                scored_event(
                    row.user_id,
                    event_id=row.event_id,
                    event_ms=row.time_ms,
                    active_rules=[match.rule.id for match in row.matches],
                    flags=flags,
                )
                for row, flags in zip(rows, raised, strict=True)
            ]
        )
        return [flag for flags in raised for flag in flags]


def stream(rng: random.Random, events: int = 40) -> list[RuleEvaluation]:
    """Events of two users, some in one millisecond, some out of order; at most of them all rules
    are true."""
    matches, _ = flag_policy.evaluate_rules(RULES, event_columns(amount=[5.0, 0.0]), 2)
    return [
        RuleEvaluation(
            rng.choice("uv"),
            START_MS + number // 4 * 20 * MINUTE_MS - rng.choice([0, 0, 0, 2 * HOUR_MS]),
            [match for match in matches if rng.random() < 0.7],
            f"e{rng.random()}",
        )
        for number in range(events)
    ]


def batches(rng: random.Random, rows: Sequence[RuleEvaluation]) -> Iterator[list[RuleEvaluation]]:
    start = 0
    while start < len(rows):
        end = start + rng.choice([1, 2, 5, 20, len(rows)])
        yield list(rows[start:end])
        start = end


def test_flags_do_not_depend_on_batches() -> None:
    rng = random.Random(1)
    rows = stream(rng)
    one_by_one = Store()
    for row in rows:
        one_by_one.evaluate([row])
    expected = one_by_one.sink.flags.keys()
    assert 10 < len(expected) < len(rows) * len(RULES) / 2
    for _ in range(CUTS):
        store = Store()
        for batch in batches(rng, rows):
            store.evaluate(batch)
        assert store.sink.flags.keys() == expected


def test_cool_down_holds_in_the_same_millisecond_and_for_late_events() -> None:
    rng, cool_down_ms = random.Random(2), RULES[0].cool_down_hours * HOUR_MS
    for _ in range(100):
        store = Store()
        for batch in batches(rng, stream(rng)):
            store.evaluate(batch)
        for user_id in "uv":
            raised_ms = sorted(
                time_ms
                for user, time_ms, rule_id, _ in store.sink.flags
                if (user, rule_id) == (user_id, RULES[0].id)
            )
            assert all(b - a >= cool_down_ms for a, b in pairwise(raised_ms))


def test_every_stored_flag_is_sent_although_tasks_are_killed() -> None:
    """A kill between store and send loses the batch's alerts. The rows after the last checkpoint
    come again, in other batches, and late events that followed them are in the store by then."""
    rng, kills = random.Random(3), 0
    while kills < KILLS:
        rows, store, sent, covered, start = stream(rng), Store(), set(), 0, 0
        while start < len(rows):
            end = min(start + rng.randrange(1, 15), len(rows))
            flags = store.evaluate(rows[start:end])
            if rng.random() < 0.3:
                start, kills = covered, kills + 1
                continue
            sent |= {flag.flag_id for flag in flags}
            start = end
            covered = end if rng.random() < 0.5 else covered
        assert sent == {flag.flag_id for flag in store.sink.flags.values()}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [((1, "a"), (2, "a")), ((1, "b"), (1, "a")), ((1, "a"), (1, "")), ((1, "a"), (2, "b"))],
)
def test_positions_are_in_the_order_of_the_table(
    earlier: tuple[int, str], later: tuple[int, str]
) -> None:
    first, second = RowPosition(*earlier), RowPosition(*later)
    assert first < second and second > first
    assert not second < first and not first > second and not first < first
    assert max(first, second) == second == sorted([second, first])[-1]
