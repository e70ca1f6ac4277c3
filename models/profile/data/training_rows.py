"""Training rows: what the backfill wrote, one row a user and window, read into flat arrays.

JSON lines as the job writes them, or the same columns in Parquet. A user's history is the
concatenation of the windows before, so the windows alone rebuild every stream; the baselines are
read as the job's SQL summed them.
"""

from __future__ import annotations

import gc
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.events.modalities import NOTHING_BESIDE, Modality, with_texts
from liveprofile.events.window import TrainingWindow, read_training
from liveprofile.features.baselines import SUMS
from liveprofile.wire.tokens import TYPE_INDEX
from models.profile.data.external_sort import NO_VECTORS, TOKEN, WINDOW, Spool, mapped, user_key
from models.profile.data.modality_vectors import Brought, Vectors
from models.profile.text_encoder import Encode

COLUMNS = {"user_id": str, "window_end_ms": int, "events": str, "added": list, "sums": list}
PURCHASE = TYPE_INDEX["purchase"]
PARQUET_MAGIC = b"PAR1"
BATCH_ROWS = 512
BUFFER_BYTES = 1 << 20
PART_WINDOWS = 20_000
NO_EVENTS = TrainingWindow([], 0, NOTHING_BESIDE, "")


class Streams(NamedTuple):
    """N tokens in W windows, ordered by user, window end, time and event id.

    Item and category codes are places in the sorted name lists; "" is a name like any other. Users
    are numbered in order of their ids' hash.
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
    added_WS: np.ndarray  # what the window adds to each of liveprofile.features.baselines.SUMS, ...
    sums_WS: np.ndarray  # ... and what it then comes to
    last_purchase_ms_W: np.ndarray  # of the user, the window included; 0: none
    unusable_events: int  # left out: the job rejects them too
    beside: dict[Modality, Brought]

    def fingerprint(self) -> str:
        """SHA-256 of the streams, the same however the rows lie in files. No user id enters."""
        digest = hashlib.sha256()
        for column in self:
            if isinstance(column, np.ndarray):
                digest.update(column)
        digest.update("\x00".join([*self.items, *self.categories]).encode("utf-8", "replace"))
        for modality, brought in self.beside.items():
            digest.update(repr(tuple(modality)).encode())
            digest.update(brought.window_K)
            for first in range(0, len(brought.row_K), BATCH_ROWS):
                digest.update(brought.vector_KW[brought.row_K[first : first + BATCH_ROWS]])
        return digest.hexdigest()

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Windows and tokens of whole users, some PART_WINDOWS at a time."""
        first = 0
        while first < len(self.user_W):
            user = self.user_W[first : first + PART_WINDOWS][-1]
            last = int(np.searchsorted(self.user_W, user, side="right"))
            yield slice(first, last), slice(self.first_W[first], self.last_W[last - 1])
            first = last


class _Batch(NamedTuple):
    """R rows, checked."""

    user_id: list[str]
    window_end_ms: list[int]
    events: list[str]
    added: np.ndarray  # (R, S)
    sums: np.ndarray


def read(
    path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    encode_texts: Encode | None = None,
) -> Streams:
    """Reads a file or a folder of them; `on_progress` gets bytes done and in all. `encode_texts`:
    for the newest text of each window; None: texts are left out.

    The arrays of the result lie in temporary files (models/profile/data/external_sort.py). Raises InputError naming the
    file and the column, line or window that is wrong.
    """
    # A name's code is its place by first sight, until all names are known.
    items, categories = (defaultdict(count().__next__) for _ in range(2))
    unusable = 0
    with Spool() as spool, Vectors() as vectors, _no_garbage_collection():
        for batch in _batches(path, on_progress):
            found = [read_training(packed) if packed else NO_EVENTS for packed in batch.events]
            unusable += sum(window.refused for window in found)
            beside = [window.beside.vectors for window in found]
            if encode_texts:
                beside = with_texts(beside, [window.text for window in found], encode_texts)
            numbers = [vectors.add(one) for one in beside]
            spool.add(*_records(batch, found, numbers, items, categories))
        if not spool.windows:
            raise InputError(f"training rows {path}: no events in them")
        streams, twice_ms = _filled(spool, vectors, items, categories)
    if twice_ms:
        raise InputError(
            f"training rows {path}: {len(twice_ms)} windows come twice for their user, one ends at"
            f" {twice_ms[0]}; keep the rows of one backfill only"
        )
    return streams._replace(unusable_events=unusable)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing here is in a cycle, and to look through a batch's tokens for one, again and again,
    takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _records(
    batch: _Batch,
    read: list[TrainingWindow],
    numbers: list[int],
    items: dict[str, int],
    categories: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """As the spool takes them; windows without a token are left out. numbers: what Vectors.add
    gave each window."""
    used = [row for row, window in enumerate(read) if window.tokens]
    tokens = [read[row].tokens for row in used]
    windows = np.empty(len(used), WINDOW)
    windows["user"] = [user_key(batch.user_id[row]) for row in used]
    windows["end_ms"] = [batch.window_end_ms[row] for row in used]
    windows["count"] = [len(one) for one in tokens]
    windows["beside"] = [numbers[row] for row in used]
    windows["added"], windows["sums"] = batch.added[used], batch.sums[used]
    records = np.empty(windows["count"].sum(), TOKEN)
    if used:
        columns = zip(*chain.from_iterable(tokens), strict=True)
        records["time_ms"], records["type"], item, category, records["amount"] = columns
        records["item"] = [items[name] for name in item]
        records["category"] = [categories[name] for name in category]
    return windows, records


def _filled(
    spool: Spool, vectors: Vectors, items: dict[str, int], categories: dict[str, int]
) -> tuple[Streams, list[int]]:
    """The streams, and the ends of windows that come twice for their user."""
    items, item_code = _sorted_codes(items)
    categories, category_code = _sorted_codes(categories)
    tokens, windows = spool.tokens, spool.windows
    streams = Streams(
        users=0,
        items=items,
        categories=categories,
        item_N=mapped(tokens, np.int32),
        category_N=mapped(tokens, np.int32),
        type_N=mapped(tokens, np.int32),
        amount_N=mapped(tokens, np.float64),
        time_ms_N=mapped(tokens, np.int64),
        user_W=mapped(windows, np.int64),
        end_ms_W=mapped(windows, np.int64),
        first_W=mapped(windows, np.int64),
        last_W=mapped(windows, np.int64),
        added_WS=mapped((windows, len(SUMS)), np.float64),
        sums_WS=mapped((windows, len(SUMS)), np.float64),
        last_purchase_ms_W=mapped(windows, np.int64),
        unusable_events=0,
        beside={},
    )
    window_of = np.empty(vectors.windows, np.int64)
    users = first_window = first_token = 0
    twice_ms = []
    for windows, tokens in spool.in_order():
        part_W = slice(first_window, first_window + len(windows))
        part_N = slice(first_token, first_token + len(tokens))
        new_user = np.concatenate([[True], windows["user"][1:] != windows["user"][:-1]])
        twice = ~new_user & (np.diff(windows["end_ms"], prepend=0) == 0)
        twice_ms += windows["end_ms"][twice].tolist()
        last = np.cumsum(windows["count"])
        first = last - windows["count"]
        streams.item_N[part_N] = item_code[tokens["item"]]
        streams.category_N[part_N] = category_code[tokens["category"]]
        streams.type_N[part_N] = tokens["type"]
        streams.amount_N[part_N] = tokens["amount"]
        streams.time_ms_N[part_N] = tokens["time_ms"]
        streams.user_W[part_W] = users - 1 + np.cumsum(new_user)
        streams.end_ms_W[part_W] = windows["end_ms"]
        streams.first_W[part_W] = first_token + first
        streams.last_W[part_W] = first_token + last
        streams.added_WS[part_W] = windows["added"]
        streams.sums_WS[part_W] = windows["sums"]
        streams.last_purchase_ms_W[part_W] = _last_purchase(tokens, first, new_user)
        with_vectors = np.flatnonzero(windows["beside"] != NO_VECTORS)
        window_of[windows["beside"][with_vectors]] = first_window + with_vectors
        users += int(new_user.sum())
        first_window, first_token = part_W.stop, part_N.stop
    return streams._replace(users=users, beside=vectors.in_order(window_of)), twice_ms


def _last_purchase(tokens: np.ndarray, first_W: np.ndarray, new_user_W: np.ndarray) -> np.ndarray:
    bought_ms_N = np.where(tokens["type"] == PURCHASE, tokens["time_ms"], 0)
    newest_W = np.maximum.reduceat(bought_ms_N, first_W)
    # The last window with a purchase, if it is the same user's: a later window's are all newer.
    window_W = np.arange(len(first_W))
    first_of_user_W = np.maximum.accumulate(np.where(new_user_W, window_W, 0))
    bought_W = np.maximum.accumulate(np.where(newest_W > 0, window_W, 0))
    return np.where(bought_W >= first_of_user_W, newest_W[bought_W], 0)


def _batches(path: Path, on_progress: Callable[[int, int], None]) -> Iterator[_Batch]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    # As Flink and Arrow do: names with these first are not data.
    files = [file for file in files if file.is_file() and file.name[0] not in "._"]
    if not files or not path.exists():
        raise InputError(f"training rows {path}: no such file, or an empty folder")
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        with file.open("rb") as opened:
            parquet = opened.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        first = 1
        for columns in _parquet_columns(file) if parquet else _json_columns(file):
            yield _checked(columns, file, "row" if parquet else "line", first)
            first += len(columns[0])
        done += file.stat().st_size
        on_progress(done, total)


def _parquet_columns(file: Path) -> Iterator[list]:
    try:
        with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as opened:
            missing = [name for name in COLUMNS if name not in opened.schema_arrow.names]
            if missing:
                raise InputError(f"training rows {file}: column {missing[0]} is missing")
            for batch in opened.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                yield [_values(batch.column(name)) for name in COLUMNS]
    except pa.ArrowInvalid as error:
        raise InputError(f"training rows {file}: {str(error).splitlines()[0]}") from None


def _values(column: pa.Array) -> list | np.ndarray:
    """Lists as the (R, S) numbers they begin with, if they do: one by one these would take long."""
    if pa.types.is_list(column.type):
        heads = pc.list_slice(column, 0, len(SUMS), return_fixed_size_list=True).values
        if not heads.null_count and heads.type == pa.float64():
            return np.from_dlpack(heads).reshape(-1, len(SUMS))
    return column.to_pylist()


def _json_columns(file: Path) -> Iterator[list]:
    number = 0
    with file.open("rb") as lines:
        while batch := list(islice(lines, BATCH_ROWS)):
            rows = []
            for line in batch:
                number += 1
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"training rows {file}: line {number}: {error}") from None
                rows.append([row.get(name) for name in COLUMNS])
            yield [*zip(*rows, strict=True)]


def _checked(columns: list, file: Path, place: str, first: int) -> _Batch:
    """Raises InputError naming the file and the row or line, the first of which is `first`."""

    def refuse(index: int, what: str) -> NoReturn:
        raise InputError(f"training rows {file}: {place} {first + index}: {what}")

    for (name, wanted), values in zip(COLUMNS.items(), columns, strict=True):
        kinds = () if isinstance(values, np.ndarray) else map(type, values)
        for index, kind in enumerate(kinds):
            if kind is not wanted:
                refuse(index, f"{name} is {kind.__name__}, must be {wanted.__name__}")
    heads = [_heads(values) for values in columns[3:]]
    for name, head_RS in zip(("added", "sums"), heads, strict=True):
        finite_R = np.isfinite(head_RS).all(1)
        if not finite_R.all():
            what = f"{name} must begin with {len(SUMS)} finite numbers"
            refuse(int(np.argmin(finite_R)), what)
    return _Batch(*columns[:3], *heads)


def _heads(lists: Sequence[list] | np.ndarray) -> np.ndarray:
    """(R, S) the numbers that each list begins with; nan for one that doesn't."""
    if isinstance(lists, np.ndarray):
        return lists
    heads_RS = np.full((len(lists), len(SUMS)), np.nan)
    for row, values in enumerate(lists):
        head = values[: len(SUMS)]
        if len(head) == len(SUMS) and {*map(type, head)} <= {float, int}:
            heads_RS[row] = head
    return heads_RS


def _sorted_codes(codes: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """The names in order, and each old code's place there: it doesn't depend on the files."""
    names = sorted(codes)
    place = np.empty(len(names), np.int32)
    place[[codes[name] for name in names]] = np.arange(len(names))
    return names, place
