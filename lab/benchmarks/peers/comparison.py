"""Compares the profiles that a peer stores with those of the job."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from benchmarks.load.workload import Workload, user_id_of
from liveprofile.errors import ServiceError
from liveprofile.settings import Settings
from liveprofile.storage import connection, queries
from liveprofile.wire.tokens import EVENT, TOKEN_CHARS_PER_WINDOW
from tests.support.rows.profile_input import token_text

SAMPLED_USERS = 200
TOLERANCE = 1e-3  # of numbers that float32 computes in batches of other rows
MIN_EQUAL = 0.98  # of the sampled users: near ties may change a ranking


def users_with_cut_windows(workload: Workload, settings: Settings) -> set[str]:
    """Users with a window whose tokens the history does not keep whole.

    Which tokens are cut depends on the order in which the job's tasks pass them on. It changes from
    run to run, also of the job (docs/data-contract.md#history).
    """
    chars: Counter[tuple[str, int]] = Counter()
    for message in workload.messages():
        event = orjson.loads(message.value)
        window = event["event_time"] // settings.window.length_ms
        chars[event["user_id"], window] += len(token_text(event)) + len(EVENT)
    return {user for (user, _), size in chars.items() if size > TOKEN_CHARS_PER_WINDOW}


def sample(users: int, without: set[str]) -> list[str]:
    """SAMPLED_USERS users, or all if there are fewer, that are spread evenly."""
    found = [user for user in map(user_id_of, range(users)) if user not in without]
    size = min(SAMPLED_USERS, len(found))
    return [found[number * len(found) // size] for number in range(size)]


def stored_profiles(settings: Settings, users: Iterable[str]) -> dict[str, Any]:
    """Profile and deltas of users; None if there is no profile."""
    with connection.open_session(settings.cassandra) as session:
        return {
            user: (queries.profile(session, user), queries.deltas(session, user)) for user in users
        }


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where two values of JSON or rows differ first, numbers by more than TOLERANCE; "" if not."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        is_equal = math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        found = (difference(one[key], other[key], f"{path}.{key}") for key in one)
        return next(filter(None, found), "")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return difference(dict(enumerate(one)), dict(enumerate(other)), path)
    else:
        is_equal = one == other
    return "" if is_equal else f"{path}: {one} and {other}"


def require_equal(profiles: Mapping[str, Any], of_job: Mapping[str, Any]) -> str:
    """How many users have equal profiles. Raises ServiceError if too few."""
    found = (difference(profiles[user], of_job[user], user)[:300] for user in of_job)
    different = list(filter(None, found))
    summary = f"{len(of_job) - len(different)} of {len(of_job)}"
    if len(different) > (1 - MIN_EQUAL) * len(of_job):
        raise ServiceError(f"{summary} profiles are equal; others: {'; '.join(different[:5])}")
    return summary
