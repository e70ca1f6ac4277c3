"""Readers of item sequences in published formats.

Shape suffixes: N all items of all sequences, U users.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from lab.next_item.data import SequenceDataset
from liveprofile.errors import InputError

TEXT_CODES = pa.dictionary(pa.int32(), pa.string())


def read_s3rec(file: Path) -> SequenceDataset:
    """Reads text lines of a user followed by the user's items, separated by spaces.

    Raises InputError for an unreadable file and for a line without items or with a repeated user.
    """
    codes: dict[str, int] = {}
    users: set[str] = set()
    item_codes, starts = [], [0]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sequences {file}: {error}") from None
    for number, line in enumerate(lines, 1):
        user, *names = line.split() or [""]
        if not user:
            continue
        if not names:
            raise InputError(f"sequences {file}: line {number}: user {user} has no items")
        if user in users:
            raise InputError(f"sequences {file}: line {number}: user {user} is repeated")
        users.add(user)
        item_codes += [codes.setdefault(name, len(codes)) for name in names]
        starts.append(len(item_codes))
    if not users:
        raise InputError(f"sequences {file}: the file has no users")
    return SequenceDataset(list(codes), np.array(item_codes, np.int32), np.array(starts))


def read_pairs(file: Path) -> SequenceDataset:
    """Reads text lines of a user and an item, each user's lines in order of time.

    The format of the data sets of SASRec (arXiv:1808.09781) and BERT4Rec (arXiv:1904.06690). Raises
    InputError for an unreadable file.
    """
    table = _read_csv(
        file,
        csv.ReadOptions(column_names=["user", "item"]),
        csv.ParseOptions(delimiter=" "),
        {"user": TEXT_CODES, "item": TEXT_CODES},
    )
    return _sequences(table, "user", "item", np.zeros(len(table), np.int64))


def read_movielens(file: Path) -> SequenceDataset:
    """Reads ratings.csv of MovieLens (20M and later): userId, movieId, rating, timestamp.

    All ratings count, whatever their value. Ratings of a user with one timestamp stay in the order
    of the file. Raises InputError for an unreadable file and a missing column.
    """
    table = _read_csv(
        file,
        csv.ReadOptions(),
        csv.ParseOptions(),
        {"userId": TEXT_CODES, "movieId": TEXT_CODES, "timestamp": pa.int64()},
    )
    return _sequences(table, "userId", "movieId", table["timestamp"].to_numpy())


READERS: dict[str, Callable[[Path], SequenceDataset]] = {
    "s3rec": read_s3rec,
    "pairs": read_pairs,
    "movielens": read_movielens,
}


def _read_csv(
    file: Path,
    read: csv.ReadOptions,
    parse: csv.ParseOptions,
    columns: dict[str, pa.DataType],
) -> pa.Table:
    convert = csv.ConvertOptions(include_columns=list(columns), column_types=columns)
    try:
        table = csv.read_csv(file, read, parse, convert)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error.args[-1]).split())[:300]
        raise InputError(f"sequences {file}: {reason}") from None
    for name in columns:
        if table[name].null_count:
            raise InputError(f"sequences {file}: {table[name].null_count} lines have no {name}")
    if not len(table):
        raise InputError(f"sequences {file}: the file has no users")
    return table.unify_dictionaries().combine_chunks()


def _sequences(table: pa.Table, user: str, item: str, time_N: np.ndarray) -> SequenceDataset:
    """Each user's items in order of time, those of one time in order of the rows."""
    user_N, item_N = (
        table[name].chunk(0).indices.to_numpy().astype(np.int32) for name in (user, item)
    )
    order_N = np.lexsort((time_N, user_N))
    starts_U = np.searchsorted(user_N[order_N], np.arange(user_N.max() + 2))
    return SequenceDataset(table[item].chunk(0).dictionary.to_pylist(), item_N[order_N], starts_U)
