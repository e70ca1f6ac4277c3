"""Which windows of a user a correction changes. Pure.

A user's chain is all of the user's windows with the late events in them, in time order. Its
windows have a revision: the number of late events in the chain up to them. The job's own window
has revision 0. So each further late event raises the revision of its window and of all later
ones, and the same late events give the same revisions.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.features import baselines
from liveprofile.wire import window_events
from offline.late_windows.late_events import Position
from udfs.profile.batch import ProfileBatch

_TEXTS = ("events", "history", "purchases")
_EVENTS = list(baselines.COLUMNS).index("events")


class ChainWindow(NamedTuple):
    """A window of a chain: a row of the profile pipeline's input."""

    row: Mapping[str, Any]  # liveprofile.wire.training_rows.PROFILE_INPUT; empty without revision
    end_ms: int
    own_late: int  # late events in it
    revision: int  # late events in it and in earlier windows
    events_total: int  # of the user up to it


class StoredWindow(NamedTuple):
    """What profile_delta has of a window."""

    end_ms: int
    revision: int  # 0: the job's
    events_total: int
    active_rules: frozenset[str]


class StoredRuleFlag(NamedTuple):
    """What risk_flag has of a window's flag."""

    rule_id: str
    end_ms: int
    rule_version: int | None
    correction: str  # "", ADDED, WITHDRAWN or KEPT


class StoredUser(NamedTuple):
    """What is stored of a user; `windows` from the reopened one on, and the one before it."""

    windows: Mapping[int, StoredWindow]  # by end
    flags: Sequence[StoredRuleFlag]
    profile: tuple[int, int] | None  # its window's end, and the events up to it


class Plan(NamedTuple):
    """What a correction does with a chain."""

    recomputed: Sequence[ChainWindow]  # from the first changed window on
    changed: frozenset[int]  # ends of the windows that are stored
    merged: frozenset[str] = frozenset()  # other users whose rows are deleted after that


def read_chain(rows: Iterable[Mapping[str, Any]], late: Container[Position]) -> list[ChainWindow]:
    """The chain of a user. rows: in time order; late: the user's late events.

    Windows before the first late event are not recomputed: the chain has only their totals.
    """
    windows, revision = [], 0
    for row in rows:
        events = window_events.parse(row["events"])
        own_late = sum((int(event.partition), int(event.offset)) in late for event in events)
        revision += own_late
        windows.append(
            ChainWindow(
                row if revision else {},
                row["window_end_ms"],
                own_late,
                revision,
                events_total(row),
            )
        )
    return windows


def events_total(row: Mapping[str, Any]) -> int:
    """The events of the user up to a row of liveprofile.wire.training_rows.PROFILE_INPUT."""
    return round(row["sums"][_EVENTS])


def is_complete(chain: Sequence[ChainWindow], stored: StoredUser, closed_ms: int) -> bool:
    """Whether the chain has the same events as what is stored of its closed windows, besides late
    ones.

    If not, earlier events of the user have expired, or the job has decided otherwise about some
    (such as a copy after `state.dedup_ttl_ms`). A recomputed profile would then be wrong. A user
    with a profile and without a closed window to compare with counts as incomplete.
    """
    by_end = {window.end_ms: window for window in chain}
    closed = [each for end_ms, each in stored.windows.items() if end_ms - 1 <= closed_ms]
    if not closed:
        if stored.profile is None:
            return True
        end_ms, total = stored.profile
        if end_ms - 1 > closed_ms or end_ms not in by_end:
            return False
        window = by_end[end_ms]
        return window.events_total - window.revision <= total <= window.events_total
    return all(
        each.end_ms in by_end
        and each.events_total
        == by_end[each.end_ms].events_total - by_end[each.end_ms].revision + each.revision
        for each in closed
    )


def is_complete_profile(
    times_ms: Iterable[int], profile: tuple[int, int] | None, closed_ms: int
) -> bool:
    """Whether these are all events of another user's profile, which becomes part of a chain.

    times_ms: of the events that are known; profile: see StoredUser, None if there is none any more.
    """
    if profile is None:
        return True
    end_ms, total = profile
    return end_ms - 1 <= closed_ms and sum(time_ms < end_ms for time_ms in times_ms) == total


def reopened_ms(chain: Sequence[ChainWindow]) -> int | None:
    """The end of the window before the first with a late event; that of the first if none is."""
    before_ms = chain[0].end_ms if chain else None
    for window in chain:
        if window.revision:
            return before_ms
        before_ms = window.end_ms
    return None


def plan(chain: Sequence[ChainWindow], stored: StoredUser, closed_ms: int) -> Plan:
    """Finds the closed windows whose stored row lacks late events.

    closed_ms: windows that end by 1 ms after it are closed, and the job has stored them. A closed
    window without a row has one from now on if it has late events.
    """
    closed = [window for window in chain if window.end_ms - 1 <= closed_ms]
    changed = frozenset(
        window.end_ms
        for window in closed
        if (
            stored.windows[window.end_ms].revision < window.revision
            if window.end_ms in stored.windows
            else window.own_late
        )
    )
    first_ms = min(changed, default=None)
    recomputed = [] if first_ms is None else [each for each in closed if each.end_ms >= first_ms]
    return Plan(recomputed, changed)


def to_batch(rows: Sequence[Mapping[str, Any]]) -> ProfileBatch:
    """Rows of liveprofile.wire.training_rows.PROFILE_INPUT as `update_profile` receives them."""
    columns = {
        name: [row[name] for row in rows]
        for name in ("user_id", "window_start_ms", "window_end_ms", *_TEXTS)
    }
    added, sums = (np.array([row[name] for row in rows], np.float64) for name in ("added", "sums"))
    return ProfileBatch(
        columns["user_id"],
        np.array(columns["window_start_ms"], np.int64),
        np.array(columns["window_end_ms"], np.int64),
        *(columns[name] for name in _TEXTS),
        added,
        sums,
    )
