"""Training rows: what the backfill wrote, one row a user and window, read into flat arrays.

JSON lines as the job writes them, or the same columns in Parquet. A user's history is the
concatenation of the windows before, so the windows alone rebuild every stream; the other columns of
a row are not read here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from udfs.window import read_tokens

COLUMNS = {"user_id": str, "window_end_ms": int, "events": str}
PARQUET_MAGIC = b"PAR1"


class Streams(NamedTuple):
    """N tokens in W windows, ordered by user, window end, time and event id.

    User, item and category codes are places in the sorted name lists; "" is a name like any other.
    """

    users: int
    items: list[str]
    categories: list[str]
    item_N: np.ndarray  # int32 codes
    category_N: np.ndarray
    type_N: np.ndarray
    amount_N: np.ndarray  # currency
    time_ms_N: np.ndarray
    user_W: np.ndarray
    end_ms_W: np.ndarray  # window ends
    first_W: np.ndarray  # first token of each window; tokens of window w: first_W[w]..last_W[w]
    last_W: np.ndarray  # one past its last token
    unusable_events: int  # left out: the job rejects them too

    def fingerprint(self) -> str:
        """SHA-256 of the streams, the same however the rows lie in files. No user id enters."""
        digest = hashlib.sha256()
        for column in (self.item_N, self.category_N, self.type_N, self.amount_N, self.time_ms_N):
            digest.update(np.ascontiguousarray(column).tobytes())
        for column in (self.user_W, self.end_ms_W, self.last_W):
            digest.update(np.ascontiguousarray(column, np.int64).tobytes())
        digest.update("\x00".join([*self.items, *self.categories]).encode("utf-8", "replace"))
        return digest.hexdigest()


def read(path: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Streams:
    """Reads a file or a folder of them; `on_progress` gets bytes done and in all.

    Raises InputError naming the file and the column, line or window that is wrong.
    """
    users, items, categories = {}, {}, {}
    user_W, end_W, count_W = array("q"), array("q"), array("q")
    item_N, category_N, type_N = array("i"), array("i"), array("b")
    amount_N, time_N = array("d"), array("q")
    unusable = 0
    for user, end_ms, packed in _windows(path, on_progress):
        if not packed:
            continue
        tokens, refused = read_tokens(packed)  # as the job reads it
        unusable += refused
        if not tokens:
            continue
        user_W.append(users.setdefault(user, len(users)))
        end_W.append(end_ms)
        count_W.append(len(tokens))
        for time_ms, kind, item, category, amount in tokens:
            time_N.append(time_ms)
            type_N.append(kind)
            item_N.append(items.setdefault(item, len(items)))
            category_N.append(categories.setdefault(category, len(categories)))
            amount_N.append(amount)
    if not user_W:
        raise InputError(f"training rows {path}: no events in them")
    codes_W = _sorted_codes(users, user_W)[0].astype(np.int64)
    codes_item_N, item_names = _sorted_codes(items, item_N)
    codes_category_N, category_names = _sorted_codes(categories, category_N)

    order_W = np.lexsort((np.array(end_W), codes_W))
    user_sorted_W, end_sorted_W = codes_W[order_W], np.array(end_W)[order_W]
    twice = (np.diff(user_sorted_W) == 0) & (np.diff(end_sorted_W) == 0)
    if twice.any():
        end_ms = int(end_sorted_W[1:][twice][0])
        raise InputError(
            f"training rows {path}: {int(twice.sum())} windows come twice for their user, one ends"
            f" at {end_ms}; keep the rows of one backfill only"
        )
    counts_W = np.array(count_W)
    starts_W = np.cumsum(counts_W) - counts_W
    sorted_counts_W = counts_W[order_W]
    last_W = np.cumsum(sorted_counts_W)
    first_W = last_W - sorted_counts_W
    take_N = np.repeat(starts_W[order_W] - first_W, sorted_counts_W) + np.arange(last_W[-1])
    return Streams(
        users=len(users),
        items=item_names,
        categories=category_names,
        item_N=codes_item_N[take_N],
        category_N=codes_category_N[take_N],
        type_N=np.array(type_N, np.int32)[take_N],
        amount_N=np.array(amount_N)[take_N],
        time_ms_N=np.array(time_N)[take_N],
        user_W=user_sorted_W,
        end_ms_W=end_sorted_W,
        first_W=first_W,
        last_W=last_W,
        unusable_events=unusable,
    )


def _windows(path: Path, on_progress: Callable[[int, int], None]) -> Iterator[tuple[str, int, str]]:
    """User, window end and packed events of every row."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    # As Flink and Arrow do: names with these first are not data.
    files = [file for file in files if file.is_file() and file.name[0] not in "._"]
    if not files or not path.exists():
        raise InputError(f"training rows {path}: no such file, or an empty folder")
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        with file.open("rb") as opened:
            parquet = opened.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        yield from _parquet_rows(file) if parquet else _json_rows(file)
        done += file.stat().st_size
        on_progress(done, total)


def _parquet_rows(file: Path) -> Iterator[tuple[str, int, str]]:
    try:
        with pq.ParquetFile(file) as opened:
            missing = [name for name in COLUMNS if name not in opened.schema_arrow.names]
            if missing:
                raise InputError(f"training rows {file}: column {missing[0]} is missing")
            for batch in opened.iter_batches(columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    yield _checked(row, file, "row")
    except pa.ArrowInvalid as error:
        raise InputError(f"training rows {file}: {str(error).splitlines()[0]}") from None


def _json_rows(file: Path) -> Iterator[tuple[str, int, str]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(f"training rows {file}: line {number}: {error}") from None
            yield _checked(row, file, f"line {number}")


def _checked(row: dict, file: Path, place: str) -> tuple[str, int, str]:
    values = tuple(row.get(name) for name in COLUMNS)
    for (name, wanted), value in zip(COLUMNS.items(), values, strict=True):
        if type(value) is not wanted:
            raise InputError(
                f"training rows {file}: {place}: {name} is {type(value).__name__},"
                f" must be {wanted.__name__}"
            )
    return values


def _sorted_codes(codes: dict[str, int], column: array) -> tuple[np.ndarray, list[str]]:
    """Codes by name instead of by first sight, so that they don't depend on the order of files."""
    names = sorted(codes)
    place = np.empty(len(codes), np.int32)
    place[[codes[name] for name in names]] = np.arange(len(codes))
    return place[np.array(column)], names
