"""The row that the profile pipeline stores for one window of one user, and its encoding."""

from collections import namedtuple
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from liveprofile.consent.changes import ConsentTable
from liveprofile.rows.profiles import (
    LATER_SUMS,
    MARKS,
    PROFILE_DELTA,
    USER_LOOKALIKE,
    USER_PROFILE,
)
from liveprofile.rows.table import Column, Table
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.membership import (
    EvaluatedWindow,
    MembershipPolicy,
    MembershipWrite,
    change_event,
)
from liveprofile.wire import output_records
from udfs.cassandra.encoding import Values, encode_column, encode_numbers, encode_row, write_time_us

# What is written of a window: the job leaves a delta's marks to corrections.
WRITTEN = {
    table.name: [column for column in table.columns.values() if column.name not in MARKS]
    for table in (USER_PROFILE, PROFILE_DELTA, USER_LOOKALIKE)
}
_STORED = [*WRITTEN[USER_PROFILE.name], *WRITTEN[PROFILE_DELTA.name]]
_OTHERS = ("revision", "write_lookalike", "flags", "memberships", "later_sums", "index_segments")


class ProfileRow(
    namedtuple(
        "ProfileRow",
        (*dict.fromkeys(column.field for column in _STORED), *_OTHERS),
        defaults=((), None, False),
    )
):
    """One window of one user: the new profile, its change and the flags that were raised.

    The fields of UserProfile and StoredDelta (liveprofile/rows/profiles.py) without the marks of
    corrections, with JSON as UTF-8 bytes and the embedding as (dim,) float32, and:

    revision: of the model or its deployment, 0 to 999,999; it orders the writes of one window.
    write_lookalike: whether user_lookalike gets a row too.
    flags: list[Flag].
    memberships: Sequence[MembershipWrite], of segments that changed.
    later_sums: of a user who was erased, the sums since then, a tuple in the order of
    liveprofile.features.baselines.COLUMNS; otherwise None.
    """

    __slots__ = ()


class EncodedRows(NamedTuple):
    """One entry for each row: the partition key, and for each table the values of its INSERT."""

    keys: list[bytes]
    profiles: list[Values]
    deltas: list[Values]
    lookalikes: list[Values]


def encode_rows(batch: Sequence[ProfileRow], embedding_dim: int) -> EncodedRows:
    """Encodes a batch column by column, each column once.

    Raises ValueError if an embedding does not have the shape (embedding_dim,).
    """
    fields = dict(zip(ProfileRow._fields, zip(*batch, strict=True), strict=True))
    fields["embedding"] = embeddings = np.stack(fields["embedding"])
    if embeddings.shape[1:] != (embedding_dim,):
        raise ValueError(
            f"embedding of shape {embeddings.shape[1:]}: the tables need ({embedding_dim},)"
        )
    write_time = encode_numbers([write_time_us(row) for row in batch], ">i8")
    encoded: dict[str, list[bytes | None]] = {}

    def column(about: Column) -> list[bytes | None]:
        # The columns of a table without a row class are named like those of the others.
        field = about.field if about.field in fields else f"{about.field}_ms"
        if field not in encoded:
            encoded[field] = encode_column(about, fields[field])
        return encoded[field]

    def values(table: Table) -> list[Values]:
        columns = map(column, WRITTEN[table.name])
        return list(map(list, zip(*columns, write_time, strict=True)))

    profiles, deltas, lookalikes = map(values, (USER_PROFILE, PROFILE_DELTA, USER_LOOKALIKE))
    return EncodedRows(encoded["user_id"], profiles, deltas, lookalikes)


def encode_sums(row: ProfileRow) -> Values:
    """Returns the values of later_sums and the write time."""
    sums = np.array(row.later_sums, ">f8").tobytes()
    values = (row.user_id, row.window_end_ms, sums)
    return encode_row(LATER_SUMS.columns.values(), values, write_time_us(row))


def decode_sums(data: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(data, ">f8").tolist())


def with_memberships(
    rows: Sequence[ProfileRow],
    evaluation: Evaluation,
    policy: MembershipPolicy,
    consents: ConsentTable,
    knows_user: Sequence[bool],
) -> list[ProfileRow]:
    """Returns the rows with the memberships that change. Raises StoreError.

    rows: those of a user in time order; evaluation: of the same rows. A change writes the segments
    of user_lookalike, but not of a user who is still new (`knows_user`) and has no row there.
    """
    windows = [
        EvaluatedWindow(
            row.user_id,
            row.window_end_ms,
            write_time_us(row),
            names,
            partial(evaluation.evidence, row=index),
            consents.allowed(row.user_id, "marketing", row.window_end_ms),
        )
        for index, (row, names) in enumerate(zip(rows, evaluation.names(), strict=True))
    ]
    found = policy.changes(windows, evaluation.segments)
    return [
        row._replace(
            memberships=writes,
            index_segments=known and any(write.is_change for write in writes),
        )
        if writes
        else row
        for row, writes, known in zip(rows, found, knows_user, strict=True)
    ]


def change_records(topic: str, writes: Sequence[MembershipWrite], event_source: str) -> list[str]:
    """Returns an output record for each change that is sent."""
    return [
        output_records.record(topic, write.user_id, change_event(write, event_source).decode())
        for write in writes
        if write.is_sent
    ]
