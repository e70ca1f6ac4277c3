"""Two jobs that write the same windows leave the rows of one: the newer, or either if equal."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pytest

from liveprofile.rows.profiles import MARKS, PROFILE_DELTA, USER_LOOKALIKE, USER_PROFILE
from liveprofile.rows.risk import RISK_FLAG, RISK_FLAG_BY_DAY
from liveprofile.rows.table import Table
from tests.support.rows.profile_rows import DIM, flag, profile_row
from udfs.cassandra import encoding
from udfs.profile.row import ProfileRow, encode_rows

WINDOWS = 12
USERS = ("ann", "bob")


class Write(NamedTuple):
    """An INSERT of the sink: table, key, the other values, and USING TIMESTAMP."""

    table: str
    key: tuple[bytes, ...]
    values: tuple[bytes | None, ...]
    time_us: int


class Job(NamedTuple):
    model_version: str
    revision: int

    def rows(self) -> list[ProfileRow]:
        """Windows in the order of event time, as this job computes them."""
        value = len(self.model_version)
        return [
            profile_row(
                user,
                number,
                model_version=self.model_version,
                revision=self.revision,
                churn=number / 100 + value,
                embedding=np.array([value, number, 0, 0], np.float32),
                write_lookalike=number % 3 == 0,
                flags=[flag()],
            )
            for number in range(WINDOWS)
            for user in USERS
        ]

    def writes(self) -> list[list[Write]]:
        """The writes of each row."""
        return [list(written(row)) for row in self.rows()]


def written(row: ProfileRow) -> Iterator[Write]:
    encoded = encode_rows([row], DIM)
    [profile], [delta], [lookalike] = encoded.profiles, encoded.deltas, encoded.lookalikes
    yield write(USER_PROFILE, profile)
    yield write(PROFILE_DELTA, delta)
    if row.write_lookalike:
        yield write(USER_LOOKALIKE, lookalike)
    for each in row.flags:
        for table in (RISK_FLAG, RISK_FLAG_BY_DAY):
            yield write(table, encoding.encode_flag(table, row, each))


def write(table: Table, values: encoding.Values) -> Write:
    *columns, time_us = values
    named = dict(zip(table.names(MARKS), columns, strict=True))
    return Write(
        table.name,
        tuple(named.pop(name) for name in table.key),
        tuple(named.values()),
        int.from_bytes(time_us, "big"),
    )


def stored(
    writes: Iterable[Write],
) -> dict[tuple[str, tuple[bytes, ...]], tuple[bytes | None, ...]]:
    """The rows after the writes: the later timestamp wins, of equal ones the later arrival."""
    found: dict[tuple[str, tuple[bytes, ...]], Write] = {}
    for each in writes:
        before = found.get((each.table, each.key))
        if before is None or before.time_us <= each.time_us:
            found[each.table, each.key] = each
    return {place: each.values for place, each in found.items()}


def interleaved(seed: int, *jobs: list[list[Write]]) -> Iterator[Write]:
    """The writes of the jobs, each in its order, in any order between them."""
    rng, waiting = random.Random(seed), [list(reversed(job)) for job in jobs]
    while remaining := [job for job in waiting if job]:
        yield from rng.choice(remaining).pop()


@pytest.mark.parametrize("seed", range(20))
def test_row_of_the_newer_model_wins_however_far_one_job_is_behind(seed: int) -> None:
    old, new = Job("old", 1).writes(), Job("new-model", 2).writes()
    only_new = stored(each for row in new for each in row)
    assert stored(interleaved(seed, old, new)) == only_new
    assert stored(each for row in (*new, *old) for each in row) == only_new


@pytest.mark.parametrize("seed", range(20))
def test_jobs_with_the_same_model_write_equal_rows(seed: int) -> None:
    one, other = Job("same", 1).writes(), Job("same", 1).writes()
    assert one == other
    assert stored(interleaved(seed, one, other)) == stored(each for row in one for each in row)
