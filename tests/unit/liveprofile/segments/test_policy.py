"""MembershipPolicy: each change exactly once, whatever is cut, killed and replayed."""

import random
from collections.abc import Iterable
from typing import NamedTuple

import orjson
import pytest

from liveprofile.segments.membership import (
    EvaluatedWindow,
    MembershipPolicy,
    MembershipWrite,
    change_event,
)
from liveprofile.segments.segments import SegmentSet
from liveprofile.units import DAY_MS, MINUTE_MS
from tests.support.memory.memberships import MemoryMemberships
from tests.support.rows.segment_examples import segment, segment_set, segments

WINDOW_MS = 5 * MINUTE_MS
NAMES = ("a", "b", "c")
SEGMENTS = segments(**dict.fromkeys(NAMES, "events > 1"))
REWRITE_MS = 90 * DAY_MS
SHADOW = segment_set(segment("a", "events > 1", state="SHADOW"))
PAUSED = segment_set(segment("a", "events > 1", state="PAUSED"))


def window(user_id: str, number: int, *names: str, allowed: bool = True) -> EvaluatedWindow:
    """The user's window with this number, in which these segments are true."""
    end_ms = number * WINDOW_MS
    true = frozenset(names)
    return EvaluatedWindow(
        user_id, end_ms, end_ms * 1_000 + 1, true, lambda name: {"events": number}, allowed
    )


class Sent(NamedTuple):
    user_id: str
    segment_id: str
    change: str
    window_end_ms: int


def sent_change(write: MembershipWrite) -> tuple[str, Sent]:
    event = orjson.loads(change_event(write))
    data = event["data"]
    change = Sent(data["user_id"], data["segment_id"], data["change"], write.membership.since_ms)
    return event["id"], change


def expected(windows: list[EvaluatedWindow]) -> list[Sent]:
    """Every change of every user, in plain Python."""
    members: dict[str, frozenset[str]] = {}
    found = []
    for one in windows:
        before = members.get(one.user_id, frozenset())
        for name in sorted(before ^ one.names):
            change = "entered" if name in one.names else "left"
            found.append(Sent(one.user_id, name, change, one.window_end_ms))
        members[one.user_id] = one.names
    return found


def random_windows(
    rng: random.Random, count: int, users: int = 40, withdrawals: float = 0.0
) -> list[EvaluatedWindow]:
    """Windows in time order; each flips a segment now and then, or what the user allows."""
    state: dict[str, set[str]] = {}
    allowed: dict[str, bool] = {}
    windows = []
    for number in range(count):
        user_id = f"u{rng.randrange(users)}"
        names = state.setdefault(user_id, set())
        while rng.random() < 0.3:
            names ^= {rng.choice(NAMES)}
        if rng.random() < withdrawals:
            allowed[user_id] = not allowed.get(user_id, True)
        windows.append(window(user_id, number + 1, *names, allowed=allowed.get(user_id, True)))
    return windows


def run_with_kills(
    rng: random.Random, windows: list[EvaluatedWindow], store: MemoryMemberships
) -> tuple[list[tuple[str, Sent]], int]:
    """What workers sent that went on from a checkpoint after each kill, and how many were killed.

    A kill leaves any part of a batch stored: whole users first, then rows of members.
    """
    sent, killed, checkpoint, position = [], 0, 0, 0
    policy = MembershipPolicy(store, REWRITE_MS)
    while position < len(windows):
        batch = windows[position : position + rng.randint(1, 60)]
        writes = [write for row in policy.changes(batch, SEGMENTS) for write in row]
        by_user: dict[str, list[MembershipWrite]] = {}
        for write in writes:
            by_user.setdefault(write.user_id, []).append(write)
        rows = [(store.write_user, each) for each in rng.sample([*by_user.values()], len(by_user))]
        rows += [(store.write_member, [write]) for write in rng.sample(writes, len(writes))]
        dies, stored = rng.random() < 0.1, rng.randint(0, len(rows) + 1)
        for write_row, parts in rows[:stored] if dies else rows:
            for part in parts:
                write_row(part)
        if not dies or stored > len(rows):
            policy.stored()
            sent += [sent_change(write) for write in writes]
        if dies:
            policy, position = MembershipPolicy(store, REWRITE_MS), checkpoint
            killed += 1
            continue
        position += len(batch)
        checkpoint = position if rng.random() < 0.3 else checkpoint
    return sent, killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_change_is_sent_exactly_once_despite_kills(seed: int) -> None:
    rng, store = random.Random(seed), MemoryMemberships()
    windows = random_windows(rng, 20_000)
    sent, killed = run_with_kills(rng, windows, store)
    unique: dict[str, Sent] = {}
    for event_id, change in sent:
        assert unique.setdefault(event_id, change) == change
    assert killed > 50 and len(sent) > len(unique)  # kills did repeat events

    def in_order(changes: Iterable[Sent]) -> list[Sent]:
        return sorted(changes, key=lambda change: (change.user_id, change.segment_id))

    assert in_order(unique.values()) == in_order(expected(windows))  # stable: by first arrival
    last = {one.user_id: one.names for one in windows}
    for name in NAMES:
        assert store.members_of(name) == {user for user, names in last.items() if name in names}
    for user_id, rows in store.users.items():
        assert {name for name, row in rows.items() if row.member} == last[user_id]


def apply(
    policy: MembershipPolicy,
    store: MemoryMemberships,
    found: SegmentSet,
    *windows: EvaluatedWindow,
) -> list[list[MembershipWrite]]:
    rows = policy.changes(windows, found)
    for writes in rows:
        for write in writes:
            store.write(write)
    policy.stored()
    return rows


def test_shadow_changes_are_stored_and_not_sent_and_paused_ones_stay() -> None:
    store = MemoryMemberships()
    policy = MembershipPolicy(store, REWRITE_MS)
    [[write]] = apply(policy, store, SHADOW, window("u", 1, "a"))
    assert (write.is_change, write.is_sent) == (True, False)
    assert apply(policy, store, PAUSED, window("u", 2)) == [[]]
    assert apply(policy, store, segment_set(version="3"), window("u", 3)) == [[]]
    assert store.users["u"]["a"].member
    [[write]] = apply(policy, store, SEGMENTS, window("u", 4))
    assert (write.change, write.is_sent, write.membership.number) == ("left", True, 2)


def test_members_of_a_shadow_segment_are_sent_when_it_becomes_active() -> None:
    store = MemoryMemberships()
    apply(MembershipPolicy(store, REWRITE_MS), store, SHADOW, window("u", 1, "a"))
    worker = MembershipPolicy(store, REWRITE_MS)
    [[write]] = apply(worker, store, SEGMENTS, window("u", 2, "a"))
    assert (write.change, write.is_sent) == ("entered", True)
    assert (write.membership.since_ms, write.membership.number) == (WINDOW_MS, 1)
    assert apply(worker, store, SEGMENTS, window("u", 3, "a")) == [[]]
    replay = apply(MembershipPolicy(store, REWRITE_MS), store, SEGMENTS, window("u", 2, "a"))
    assert replay == [[write]]


def test_old_membership_is_written_again_without_an_event() -> None:
    store = MemoryMemberships()
    policy = MembershipPolicy(store, 10 * WINDOW_MS)
    apply(policy, store, SEGMENTS, window("u", 1, "a"))
    assert apply(policy, store, SEGMENTS, window("u", 10, "a")) == [[]]
    [[write]] = apply(policy, store, SEGMENTS, window("u", 11, "a"))
    assert (write.is_change, write.is_sent) == (False, False)
    assert write.membership.since_ms == WINDOW_MS
    assert write.membership.write_time_us == 11 * WINDOW_MS * 1_000 + 1
    assert apply(policy, store, SEGMENTS, window("u", 12, "a")) == [[]]


@pytest.mark.parametrize("seed", range(4))
def test_receiver_knows_a_user_after_each_window_that_is_allowed(seed: int) -> None:
    rng, store, replays, position = random.Random(seed), MemoryMemberships(), 0, 0
    windows = random_windows(rng, 3_000, users=12, withdrawals=0.2)
    policy, received = MembershipPolicy(store, REWRITE_MS), dict[str, set[str]]()
    while position < len(windows):
        batch = windows[position : position + rng.randint(1, 8)]
        found = policy.changes(batch, SEGMENTS)
        for write in (write for writes in found for write in writes):
            store.write(write)
        if rng.random() < 0.1:  # killed after storing, before sending
            policy, replays = MembershipPolicy(store, REWRITE_MS), replays + 1
            continue
        policy.stored()
        last = {one.user_id: one for one in batch}
        for one, writes in zip(batch, found, strict=True):
            members = received.setdefault(one.user_id, set())
            sent = [write for write in writes if write.is_sent]
            assert one.may_announce or not sent
            for write in sent:
                (members.add if write.membership.member else members.discard)(write.segment_id)
            if one.may_announce and last[one.user_id] is one:
                assert members == one.names
        position += len(batch)
    assert replays > 20
