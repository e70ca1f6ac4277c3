from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from liveprofile.features import baselines
from liveprofile.wire.window_events import WindowEvent, join
from offline.late_windows.chains import (
    StoredUser,
    StoredWindow,
    is_complete,
    is_complete_profile,
    plan,
    read_chain,
    reopened_ms,
)

LATE = {(0, 3), (0, 9)}
CLOSED_MS = 399  # four windows of 100 ms


def row(number: int, offsets: Sequence[int], total: int) -> dict[str, object]:
    """The window number `number` with the events at these offsets; total: events up to it."""
    sums = [0.0] * len(baselines.COLUMNS)
    sums[1] = float(total)
    end_ms = 100 * number
    return {
        "user_id": "u",
        "window_start_ms": end_ms - 100,
        "window_end_ms": end_ms,
        "events": join(WindowEvent(end_ms - 50, "0", str(offset), "{}") for offset in offsets),
        "history": f"history {number}",
        "added": [0.0] * len(sums),
        "sums": sums,
        "purchases": str(number),
    }


# The job had windows 1, 3 and 4. Window 2 has only a late event, window 3 one more.
ROWS = [row(1, [0, 1], 2), row(2, [3], 3), row(3, [2, 9], 5), row(4, [4], 6)]
CHAIN = read_chain(ROWS, LATE)


def stored(totals: Mapping[int, tuple[int, int]], profile: tuple[int, int] | None = None):
    """totals: by number of a window, its revision and the events up to it."""
    windows = {
        100 * number: StoredWindow(100 * number, revision, total, frozenset())
        for number, (revision, total) in totals.items()
    }
    return StoredUser(windows, [], profile)


JOB = stored({1: (0, 2), 3: (0, 3), 4: (0, 4)}, (400, 4))


def test_revision_is_the_number_of_late_events_so_far():
    found = [(window.end_ms, window.own_late, window.revision) for window in CHAIN]
    assert found == [(100, 0, 0), (200, 1, 1), (300, 1, 2), (400, 0, 2)]
    assert reopened_ms(CHAIN) == 100
    assert reopened_ms(read_chain(ROWS, {(0, 0)})) == 100
    assert reopened_ms(read_chain(ROWS, {(5, 5)})) is None


def changed(user: StoredUser, closed_ms: int = CLOSED_MS) -> tuple[list[int], list[int]]:
    found = plan(CHAIN, user, closed_ms)
    return [window.end_ms for window in found.recomputed], sorted(found.changed)


def test_all_windows_from_the_late_event_on_are_changed():
    assert changed(JOB) == ([200, 300, 400], [200, 300, 400])


def test_windows_that_the_job_has_not_closed_are_left_to_it():
    assert changed(JOB, CLOSED_MS - 1) == ([200, 300], [200, 300])


def test_window_without_a_row_and_without_late_events_stays_without_one():
    assert changed(stored({1: (0, 2), 3: (0, 3)})) == ([200, 300, 400], [200, 300])


def test_windows_that_are_corrected_stay():
    done = stored({1: (0, 2), 2: (1, 3), 3: (2, 5), 4: (2, 6)})
    assert changed(done) == ([], [])


def test_run_that_was_killed_goes_on_with_the_first_window_that_is_not_stored():
    half = stored({1: (0, 2), 2: (1, 3), 3: (0, 3), 4: (2, 6)})
    assert changed(half) == ([300, 400], [300])
    one_late_event = stored({1: (0, 2), 2: (1, 3), 3: (1, 4), 4: (1, 5)})
    assert changed(one_late_event) == ([300, 400], [300, 400])


@pytest.mark.parametrize(
    "user",
    [
        JOB,
        stored({2: (1, 3), 3: (2, 5)}),
        stored({}),
        stored({}, (400, 4)),  # the job's profile; the deltas have expired
        stored({}, (400, 6)),  # a corrected one
        # Windows that the job has closed since the records were read are not compared.
        stored({1: (0, 2), 5: (0, 9)}),
    ],
)
def test_history_with_all_events_is_complete(user: StoredUser):
    assert is_complete(CHAIN, user, CLOSED_MS)


@pytest.mark.parametrize(
    "user",
    [
        stored({1: (0, 3)}),  # an earlier event is missing
        stored({3: (1, 5)}),
        stored({1: (0, 2), 3: (0, 5)}),
        stored({1: (0, 2)} | {0: (0, 1)}),  # a window before all of the chain
        stored({}, (50, 4)),
        stored({}, (400, 9)),
        stored({}, (500, 6)),  # nothing to compare with yet
    ],
)
def test_history_that_differs_from_what_the_job_has_seen_is_incomplete(user: StoredUser):
    assert not is_complete(CHAIN, user, CLOSED_MS)


@pytest.mark.parametrize(
    ("times_ms", "profile", "complete"),
    [
        ([10, 150, 199], (200, 3), True),
        ([10, 150, 250], (200, 2), True),  # of a window after the profile's
        ([10, 150], (200, 3), False),  # one has expired
        ([10], (500, 1), False),  # its window is open
        ([10], None, True),  # its rows are deleted already
    ],
)
def test_profile_that_becomes_part_of_another_needs_all_of_its_events(
    times_ms: list[int], profile: tuple[int, int] | None, complete: bool
) -> None:
    assert is_complete_profile(times_ms, profile, CLOSED_MS) is complete
