"""Changes of users who do not allow marketing are stored and not sent, and sent once they do."""

from __future__ import annotations

import random

import pytest

from liveprofile.segments.membership import MembershipWrite
from liveprofile.segments.policy import EvaluatedWindow, MembershipPolicy
from liveprofile.segments.sweep_changes import SweepPlan, leave
from tests.support.memory.memberships import MemoryMemberships
from tests.support.rows.segment_examples import segments

NAMES = ("a", "b")
SEGMENTS = segments(**dict.fromkeys(NAMES, "events > 1"))
WINDOW_MS, REWRITE_MS = 300_000, 10**12


def window(user_id: str, number: int, names: set[str], allowed: bool) -> EvaluatedWindow:
    end_ms = number * WINDOW_MS
    return EvaluatedWindow(
        user_id, end_ms, end_ms * 1_000, frozenset(names), lambda name: {}, allowed
    )


def random_windows(rng: random.Random, count: int) -> list[EvaluatedWindow]:
    names: dict[str, set[str]] = {}
    allowed: dict[str, bool] = {}
    found = []
    for number in range(1, count + 1):
        user = f"u{rng.randrange(12)}"
        if rng.random() < 0.3:
            names.setdefault(user, set()).symmetric_difference_update({rng.choice(NAMES)})
        if rng.random() < 0.2:
            allowed[user] = not allowed.get(user, True)
        found.append(window(user, number, set(names.get(user, ())), allowed.get(user, True)))
    return found


class Receiver:
    """A downstream system: who is in which segment, as far as it was told."""

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {}

    def take(self, writes: list[MembershipWrite]) -> None:
        for write in writes:
            if write.is_sent:
                members = self.members.setdefault(write.user_id, set())
                (members.add if write.membership.member else members.discard)(write.segment_id)


@pytest.mark.parametrize("seed", range(4))
def test_receiver_knows_a_user_after_each_window_that_is_allowed(seed: int) -> None:
    rng = random.Random(seed)
    windows, store, receiver = random_windows(rng, 3_000), MemoryMemberships(), Receiver()
    policy, position = MembershipPolicy(store, REWRITE_MS), 0
    replays = 0
    while position < len(windows):
        batch = windows[position : position + rng.randint(1, 8)]
        found = policy.changes(batch, SEGMENTS)
        for one, writes in zip(batch, found, strict=True):
            assert one.may_announce or not any(write.is_sent for write in writes)
            for write in writes:
                store.write(write)
        if rng.random() < 0.1:  # killed after storing, before sending
            policy, replays = MembershipPolicy(store, REWRITE_MS), replays + 1
            continue
        policy.stored()
        for one, writes in zip(batch, found, strict=True):
            before = set(receiver.members.get(one.user_id, ()))
            receiver.take(writes)
            after = receiver.members.get(one.user_id, set())
            last_of_user = not any(
                other.user_id == one.user_id and other.window_end_ms > one.window_end_ms
                for other in batch
            )
            if one.may_announce and last_of_user:
                assert after == one.names
            if not one.may_announce:
                assert after == before
        position += len(batch)
    assert replays > 20


def test_a_sweep_stores_the_end_of_a_membership_and_does_not_send_it() -> None:
    store = MemoryMemberships()
    [writes] = MembershipPolicy(store, REWRITE_MS).changes([window("u", 1, {"a"}, True)], SEGMENTS)
    [entered] = writes
    assert entered.is_sent
    plan = SweepPlan("s", 10 * WINDOW_MS, 30.0, REWRITE_MS, lambda user_id: user_id != "u")
    left = leave("u", "a", entered.membership, "expired", plan)
    assert left is not None and left.change == "left" and not left.is_sent
    assert leave("v", "a", entered.membership, "expired", plan).is_sent
