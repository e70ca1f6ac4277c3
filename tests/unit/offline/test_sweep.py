"""Sweeps: users enter and leave by time, definitions apply to all users, kills lose nothing."""

import random
from collections.abc import Callable, Sequence

import orjson
import pytest

from liveprofile.segments.membership import (
    EvaluatedWindow,
    MembershipPolicy,
    MembershipWrite,
    change_event,
)
from liveprofile.segments.segments import SegmentSet
from liveprofile.units import DAY_MS, HOUR_MS
from offline.sweep import Sweep, SweepResult
from offline.sweep_changes import SweepPlan
from offline.sweep_store import SweepState
from tests.support.memory.memberships import MemoryMemberships
from tests.support.memory.sweep_store import KilledError, MemorySweepStore, stored_profile
from tests.support.rows.segment_examples import segment, segment_set, segments
from tests.support.rows.statements import stated

RECENT = segments(recent="recency_days <= 30", idle="idle_days > 10")
REWRITE_MS = 90 * DAY_MS
END_MS = 100 * DAY_MS


class World:
    """Stored profiles and memberships, a job that processes windows, and sweeps."""

    def __init__(self, found: SegmentSet = RECENT):
        self.segments = found
        self.store = MemorySweepStore(MemoryMemberships())
        self.sent: list[dict] = []
        self.erased: set[str] = set()
        self.policy = MembershipPolicy(self.store.segments, REWRITE_MS)
        self.step: Callable[[str], None] = lambda name: None
        self.swept = ""  # the definitions of the last sweep

    def window(self, user_id: str, end_ms: int = END_MS, **features: float) -> None:
        """The job processes a window, which stores a profile with these features."""
        token = self.store.tokens.get(user_id, 10 * len(self.store.tokens))
        row = stored_profile(user_id, token, end_ms, **features)
        self.store.put(row)
        values = orjson.loads(row.profile)["features"]
        names = {"recent"} if values["recency_days"] <= 30 else set()
        one = EvaluatedWindow(
            user_id, end_ms, end_ms * 1_000 + 1, frozenset(names), lambda name: values
        )
        [writes] = self.policy.changes([one], self.segments)
        for write in writes:
            self.store.segments.write(write)
        self.policy.stored()
        self.send(writes)

    def send(self, writes: Sequence[MembershipWrite]) -> None:
        self.store.step("send")
        self.sent += [orjson.loads(change_event(write)) for write in writes if write.is_sent]

    def sweep(
        self, time_ms: int, sweep: str = "s1", state: SweepState | None = None
    ) -> SweepResult:
        known = self.swept == self.segments.version
        self.swept = self.segments.version
        erased = {"is_erased": lambda user, end_ms: user in self.erased}
        plan = SweepPlan(sweep, time_ms, 30.0, REWRITE_MS, known_definitions=known, **erased)
        start = state or SweepState(sweep, time_ms, self.segments.version)
        return Sweep(self.store, self.send, self.segments, plan, recheck_s=0.0).run(start)

    def changes(self) -> list[tuple[str, str, str, str]]:
        """user, segment, change, cause of each event id, in order of first arrival."""
        unique = {event["id"]: event["data"] for event in self.sent}
        keys = ("user_id", "segment_id", "change", "cause")
        return [tuple(data[key] for key in keys) for data in unique.values()]

    def numbered(self, segment_id: str) -> dict[str, list[str]]:
        """The changes of each user by number, which must be 1, 2, ...: entered, left, ..."""
        found: dict[str, dict[int, str]] = {}
        for data in {event["id"]: event["data"] for event in self.sent}.values():
            if data["segment_id"] == segment_id:
                changes = found.setdefault(data["user_id"], {})
                assert data["number"] not in changes
                changes[data["number"]] = data["change"]
        for changes in found.values():
            assert changes == {
                number: "entered" if number % 2 else "left" for number in range(1, len(changes) + 1)
            }
        return {user: [changes[n] for n in sorted(changes)] for user, changes in found.items()}

    def assert_consistent(self, time_ms: int) -> None:
        """Events, user_segment and segment_member agree with the profiles at this time."""
        for name in ("recent", "idle"):
            members = {user for user, changes in self.numbered(name).items() if len(changes) % 2}
            stored = {
                user
                for user, rows in self.store.segments.users.items()
                if name in rows and rows[name].member
            }
            assert members == stored == self.store.segments.members_of(name)
            expected = set()
            for user, row in self.store.rows.items():
                idle = max(time_ms - row.window_end_ms, 0) / DAY_MS
                recency = orjson.loads(row.profile)["features"]["recency_days"] + idle
                if (recency <= 30) if name == "recent" else idle > 10:
                    expected.add(user)
            assert members == expected


def test_users_who_are_erased_are_left_to_their_deletion() -> None:
    world = World()
    for user in ("gone", "deleted", "kept"):
        world.window(user, recency_days=0.0)
    world.erased = {"gone", "deleted"}
    del world.store.rows["deleted"]  # its memberships follow
    world.sweep(END_MS + 40 * DAY_MS)
    assert {user for user, *_ in world.changes()[3:]} == {"kept"}


def test_users_leave_and_enter_by_time() -> None:
    world = World()
    world.window("a", recency_days=5)
    world.window("b", recency_days=29)
    assert world.sweep(END_MS)[1:3] == (0, 0)
    result = world.sweep(END_MS + 3 * DAY_MS, "s2")
    assert (result.state.users, result.entered, result.left) == (2, 0, 1)
    assert world.changes() == [
        ("a", "recent", "entered", "window"),
        ("b", "recent", "entered", "window"),
        ("b", "recent", "left", "time"),
    ]
    assert world.sent[-1]["source"] == "liveprofile/segment-sweep"
    assert world.sent[-1]["data"]["values"] == {"recency_days": 32}
    world.sweep(END_MS + 11 * DAY_MS, "s3")
    world.assert_consistent(END_MS + 11 * DAY_MS)


def test_new_definition_applies_to_all_users_and_removed_one_loses_its_members() -> None:
    world = World()
    for user in range(8):
        world.window(f"u{user}", recency_days=user, purchases=user)
    world.segments = segment_set(
        segment("buyer", "purchases >= 5"),
        segment("hidden", "purchases >= 7", state="SHADOW"),
        segment("idle", "events > 0", state="PAUSED"),
        version="2",
    )
    result = world.sweep(END_MS)
    assert (result.entered, result.left) == (4, 8)
    assert world.changes()[8:] == sorted(world.changes()[8:], key=lambda change: change[0])
    changed = world.changes()[8:]
    assert {c for c in changed if c[1] == "buyer"} == {
        (f"u{n}", "buyer", "entered", "definition") for n in (5, 6, 7)
    }
    assert {c for c in changed if c[1] == "recent"} == {
        (f"u{n}", "recent", "left", "removed") for n in range(8)
    }
    assert not [c for c in changed if c[1] == "hidden"]
    assert result.state.members == {"buyer": 3, "hidden": 1}
    assert not world.store.segments.members_of("recent")


@pytest.mark.parametrize("seed", range(40))
def test_killed_sweep_goes_on_and_sends_every_change_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    for user in range(30):
        world.window(f"u{user}", recency_days=rng.choice([5, 29, 40]))
    for user in rng.sample(range(30), 4):
        del world.store.rows[f"u{user}"]
    world.segments = RECENT.model_copy(update={"sweep": "s1", "sweeping": True})
    time_ms = END_MS + rng.choice([1, 3, 20]) * DAY_MS
    kills = windows = 0

    def step(name: str) -> None:
        nonlocal kills, windows
        if rng.random() < 0.02:  # a window while the sweep runs
            world.store.step = lambda name: None
            user = rng.randrange(30)
            row = world.store.rows.get(f"u{user}")
            if row is not None:
                windows += 1
                end_ms = time_ms - HOUR_MS + 1_000 * windows
                world.window(row.user_id, end_ms, recency_days=rng.choice([0, 50]))
            world.store.step = step
        if rng.random() < 0.04:
            kills += 1
            raise KilledError

    world.store.step = step
    while True:
        try:
            world.sweep(time_ms, state=world.store.state)
        except KilledError:
            continue
        break
    assert kills or seed
    world.store.step = lambda name: None
    world.assert_consistent(time_ms)


def test_user_enters_and_leaves_with_a_stated_attribute_and_its_expiry() -> None:
    world = World(segments(vip='attribute("vip")'))
    world.window("u", recency_days=50.0)
    world.sweep(END_MS, "s1")
    assert world.changes() == []
    world.store.statements = {"u": [stated("u", END_MS, days=5, vip=True)]}
    world.sweep(END_MS + DAY_MS, "s2")
    world.sweep(END_MS + 2 * DAY_MS, "s3")
    world.sweep(END_MS + 5 * DAY_MS, "s4")
    assert world.changes() == [("u", "vip", "entered", "time"), ("u", "vip", "left", "time")]


def test_cause_is_the_definition_for_all_users_that_it_has_not_seen() -> None:
    world = World(segments(vip='attribute("vip")', idle="idle_days > 3"))
    for user in ("a", "b"):
        world.window(user, recency_days=50.0)
    found = []
    for day, is_vip in ((0, True), (2, True), (5, False), (9, True)):
        world.store.statements = {"a": [stated("a", END_MS + day, age=40, vip=is_vip)]}
        before = len(world.changes())
        world.sweep(END_MS + day * DAY_MS, f"s{day}")
        found.append([change[1:] for change in world.changes()[before:] if change[0] == "a"])
    assert found == [
        [("vip", "entered", "definition")],
        [],
        [("idle", "entered", "time"), ("vip", "left", "time")],
        [("vip", "entered", "time")],
    ]
    assert ("b", "idle", "entered", "time") in world.changes()
    world.segments = segments(idle="idle_days > 1").model_copy(update={"version": "next"})
    world.window("c", END_MS + 23 * DAY_MS)
    world.sweep(END_MS + 25 * DAY_MS, "last")
    assert ("c", "idle", "entered", "definition") in world.changes()
