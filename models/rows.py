"""Training rows: the backfill's Parquet, one row a user and window, read into flat arrays.

A user's history is the concatenation of the windows before, so the windows alone rebuild every
stream; `history` and `baseline` in the rows are not read here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from liveprofile.errors import InputError
from udfs.events import EVENT, FIELD, BadEvent, Token, as_id, load, token

COLUMNS = {
    "user_id": pa.string(),
    "window_start_ms": pa.int64(),
    "window_end_ms": pa.int64(),
    "events": pa.string(),
}


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


def unpack_window(packed: str) -> tuple[list[Token], int]:
    """A window's tokens by time and event id, and how many of its events can't be used."""
    keyed, unusable = [], 0
    for event in packed.split(EVENT) if packed else ():
        time_text, _partition, _offset, payload = event.split(FIELD, 3)
        try:
            fields, time_ms = load(payload), int(time_text)
            keyed.append((time_ms, as_id(fields.get("event_id")), token(fields, time_ms)))
        except BadEvent:
            unusable += 1
    keyed.sort()
    return [each for _, _, each in keyed], unusable


def read(path: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Streams:
    """Reads a Parquet file or a folder of them; `on_progress` gets rows done and in all.

    Raises InputError naming the path and the column or the window that is wrong.
    """
    dataset = _open(path)
    users, items, categories = {}, {}, {}
    user_W, end_W, count_W = array("q"), array("q"), array("q")
    item_N, category_N, type_N = array("i"), array("i"), array("b")
    amount_N, time_N = array("d"), array("q")
    unusable, total = 0, dataset.count_rows()
    for batch in dataset.to_batches(columns=["user_id", "window_end_ms", "events"]):
        columns = batch.to_pydict()
        for user, end_ms, packed in zip(*columns.values(), strict=True):
            tokens, bad = unpack_window(packed)
            unusable += bad
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
        on_progress(len(user_W), total)
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


def _open(path: Path) -> ds.Dataset:
    if not path.exists():
        raise InputError(f"training rows {path}: no such file or folder")
    try:
        dataset = ds.dataset(path, format="parquet")
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"training rows {path}: {str(error).splitlines()[0]}") from None
    for name, wanted in COLUMNS.items():
        index = dataset.schema.get_field_index(name)
        found = dataset.schema.field(index).type if index >= 0 else None
        if found != wanted and not (wanted == pa.string() and found == pa.large_string()):
            there = f"is {found}" if found is not None else "is missing"
            raise InputError(f"training rows {path}: column {name} {there}, must be {wanted}")
    return dataset


def _sorted_codes(codes: dict[str, int], column: array) -> tuple[np.ndarray, list[str]]:
    """Codes by name instead of by first sight, so that they don't depend on the order of files."""
    names = sorted(codes)
    place = np.empty(len(codes), np.int32)
    place[[codes[name] for name in names]] = np.arange(len(codes))
    return place[np.array(column)], names
