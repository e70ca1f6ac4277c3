"""Which users are erased, by the table `erasure`: for those who show or act on rows of users."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import orjson
from cassandra.cluster import Session

from liveprofile.rows.risk import RISK_SCORE_HOURS
from liveprofile.storage.cql import prepare, read, to_ms

_USERS_AT_ONCE = 50  # a page of 200 rows takes four reads at most


def hides(remaining: str) -> bool:
    """Whether what the user's rows say is still there, by the column of the table.

    The list of hours says nothing, and the present hour stays in it until it is over.
    """
    return remaining != "{}" and bool(orjson.loads(remaining).keys() - {RISK_SCORE_HOURS.name})


def erased_before_ms(
    session: Session, user_ids: Collection[str], hidden: bool = False
) -> dict[str, int]:
    """The time before which everything of a user is erased, of those who are. Raises ServiceError.

    hidden: only of users whose rows are not deleted yet, so that what shows rows hides them.
    """
    ids, found = sorted(set(user_ids)), {}
    query = prepare(session, "SELECT user_id, before, remaining FROM erasure WHERE user_id IN ?")
    for start in range(0, len(ids), _USERS_AT_ONCE):
        rows = read(session, query, (ids[start : start + _USERS_AT_ONCE],))
        found |= {row[0]: to_ms(row[1]) for row in rows if not hidden or hides(row[2])}
    return found


def without_erased(session: Session, rows: Sequence[Any], time: str) -> list[Any]:
    """Rows of users without those that are erased and not deleted yet. Raises ServiceError.

    time: the field of a row that tells of which time it is, in ms.
    """
    erased = erased_before_ms(session, [row.user_id for row in rows], hidden=True)
    return [row for row in rows if getattr(row, time) >= erased.get(row.user_id, -math.inf)]
