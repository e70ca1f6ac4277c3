"""Reads training rows, which the backfill writes one per user and window, into flat arrays.

The rows are Parquet files. A user's history is the concatenation of the previous windows, so the
windows alone rebuild every stream. The baselines are the sums that the job's SQL computed.

Shape suffixes: N tokens; W windows; R rows of a batch; S sums of
liveprofile.features.baselines.SUMS.
"""

from __future__ import annotations

import gc
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.disk_tables import DiskTables, mapped_zeros
from liveprofile.errors import InputError
from liveprofile.events.modalities import NO_MODALITIES, Modality, add_text_vectors
from liveprofile.events.window import TrainingWindow, parse_training_window
from liveprofile.features.baselines import SUMS
from liveprofile.privacy.trained_users import USER_BYTES, user_key
from liveprofile.wire.tokens import TYPE_INDEX
from liveprofile.wire.training_rows import PROFILE
from models.profile.data.modality_vectors import NO_VECTOR_INDEX, VectorSpool, WindowVectors
from models.profile.text_encoder import TextEncoder

PURCHASE = TYPE_INDEX["purchase"]
READ = pa.schema(map(PROFILE.field, ("user_id", "window_end_ms", "events", "added", "sums")))
BATCH_ROWS = 512
BUFFER_BYTES = 1 << 20
PART_WINDOWS = 20_000
WINDOW_DTYPE = np.dtype(
    [
        ("user", f"S{USER_BYTES}"),
        ("end_ms", np.int64),
        ("count", np.int64),
        ("added", np.float64, len(SUMS)),
        ("sums", np.float64, len(SUMS)),
        ("vector_index", np.int64),  # as VectorSpool.add returned it
    ]
)
TOKEN_DTYPE = np.dtype(
    [
        ("item", np.int32),
        ("category", np.int32),
        ("type", np.int32),
        ("amount", np.float64),
        ("time_ms", np.int64),
    ]
)
EMPTY_WINDOW = TrainingWindow([], 0, NO_MODALITIES, "")


class Streams(NamedTuple):
    """N tokens in W windows, ordered by user, window end, time and content.

    Item and category codes are indexes into the sorted name lists; "" is a name, too. Users are
    numbered in the order of their ids' hashes.
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
    first_W: np.ndarray  # first token of each window
    last_W: np.ndarray  # one past the last token of each window
    added_WS: np.ndarray  # what the window adds to each sum
    sums_WS: np.ndarray  # the sums, window included
    last_purchase_ms_W: np.ndarray  # last purchase of the user, window included; 0: none
    unusable_events: int  # events left out, which the job rejects as well
    window_vectors: dict[Modality, WindowVectors]
    user_key_U: np.ndarray  # each user's `user_key`

    def fingerprint(self) -> str:
        """SHA-256 of the streams, independent of how rows are split into files and of user ids.

        Sums of amounts are added in the order of arrival, so their last bits, and with them the
        fingerprint, can differ between two backfills of one file.
        """
        digest = hashlib.sha256()
        for name, column in self._asdict().items():
            if isinstance(column, np.ndarray) and name != "user_key_U":
                digest.update(column)
        digest.update("\x00".join([*self.items, *self.categories]).encode("utf-8", "replace"))
        for modality, vectors in self.window_vectors.items():
            digest.update(repr(tuple(modality)).encode())
            digest.update(vectors.window_K)
            for first in range(0, len(vectors.row_K), BATCH_ROWS):
                digest.update(vectors.vector_KW[vectors.row_K[first : first + BATCH_ROWS]])
        return digest.hexdigest()

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Yields slices of windows and of their tokens, about PART_WINDOWS windows at a time.

        All windows of a user are in one slice.
        """
        first = 0
        while first < len(self.user_W):
            user = self.user_W[first : first + PART_WINDOWS][-1]
            last = int(np.searchsorted(self.user_W, user, side="right"))
            yield slice(first, last), slice(self.first_W[first], self.last_W[last - 1])
            first = last


class _RowBatch(NamedTuple):
    """R validated rows."""

    user_id: list[str]
    window_end_ms: list[int]
    events: list[str]
    added: np.ndarray  # (R, S)
    sums: np.ndarray

    def without(self, users: Collection[str]) -> _RowBatch:
        """The rows of other users."""
        kept = [row for row, user in enumerate(self.user_id) if user not in users]
        if len(kept) == len(self.user_id):
            return self
        lists = ([column[row] for row in kept] for column in self[:3])
        return _RowBatch(*lists, self.added[kept], self.sums[kept])


def read(
    path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    encode_texts: TextEncoder | None = None,
    without: Collection[str] = (),
) -> Streams:
    """Reads a file or a folder of files, all users except those of `without`.

    on_progress: called with the bytes read and the total bytes. encode_texts: encodes the newest
    text of each window; None: texts are ignored. The arrays of the result are memory-mapped
    temporary files. Raises InputError naming the file and the invalid column, row or window.
    """
    # Codes follow the order of first occurrence until all names are known.
    items, categories = (defaultdict(count().__next__) for _ in range(2))
    unusable = tokens = 0
    with DiskTables() as rows, VectorSpool() as spool, _no_garbage_collection():
        left_out = frozenset(without)
        for batch in _read_batches(path, on_progress):
            batch = batch.without(left_out)
            windows = [
                parse_training_window(packed) if packed else EMPTY_WINDOW for packed in batch.events
            ]
            unusable += sum(window.rejected for window in windows)
            vectors = [window.modalities.vectors for window in windows]
            if encode_texts:
                texts = [window.text for window in windows]
                vectors = add_text_vectors(vectors, texts, encode_texts)
            vector_indexes = [spool.add(window_vectors) for window_vectors in vectors]
            records = _sort_records(batch, windows, vector_indexes, items, categories)
            tokens += len(records[1])
            _add_rows(rows, *records)
        if not rows.count("windows"):
            raise InputError(f"training rows {path}: no events in them")
        streams, duplicates_ms = _fill_streams(rows, tokens, spool, items, categories)
    if duplicates_ms:
        raise InputError(
            f"training rows {path}: {len(duplicates_ms)} duplicate windows (same user and end), one"
            f" ends at {duplicates_ms[0]}; keep the rows of one backfill only"
        )
    return streams._replace(unusable_events=unusable)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disables garbage collection. Tokens form no cycles, and scanning them takes a tenth of the
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _sort_records(
    batch: _RowBatch,
    parsed: list[TrainingWindow],
    vector_indexes: list[int],
    items: dict[str, int],
    categories: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Window records and the tokens of one after the other. Leaves out windows without tokens."""
    used = [row for row, window in enumerate(parsed) if window.tokens]
    tokens = [parsed[row].tokens for row in used]
    windows = np.empty(len(used), WINDOW_DTYPE)
    windows["user"] = [user_key(batch.user_id[row]) for row in used]
    windows["end_ms"] = [batch.window_end_ms[row] for row in used]
    windows["count"] = [len(window_tokens) for window_tokens in tokens]
    windows["vector_index"] = [vector_indexes[row] for row in used]
    windows["added"], windows["sums"] = batch.added[used], batch.sums[used]
    records = np.empty(windows["count"].sum(), TOKEN_DTYPE)
    if used:
        columns = zip(*chain.from_iterable(tokens), strict=True)
        records["time_ms"], records["type"], item, category, records["amount"] = columns
        records["item"] = [items[name] for name in item]
        records["category"] = [categories[name] for name in category]
    return windows, records


def _add_rows(rows: DiskTables, windows: np.ndarray, tokens: np.ndarray) -> None:
    if len(windows):
        parts = np.split(tokens, np.cumsum(windows["count"])[:-1])
        columns = {
            "user": windows["user"].tolist(),
            "record": [window.tobytes() for window in windows],
            "tokens": [part.tobytes() for part in parts],
        }
        arrays = {name: pa.array(values, pa.binary()) for name, values in columns.items()}
        rows.add("windows", pa.record_batch({**arrays, "end_ms": windows["end_ms"]}))


def _sorted_parts(rows: DiskTables) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields windows ordered by user and end, and their tokens.

    All windows of a user are in one part.
    """
    windows, tokens = np.empty(0, WINDOW_DTYPE), np.empty(0, TOKEN_DTYPE)
    for batch in rows.read("windows", "ORDER BY user, end_ms"):
        read = (
            np.frombuffer(b"".join(batch.column(name).to_pylist()), dtype)
            for name, dtype in (("record", WINDOW_DTYPE), ("tokens", TOKEN_DTYPE))
        )
        windows, tokens = map(np.concatenate, zip((windows, tokens), read, strict=True))
        complete = int(np.searchsorted(windows["user"], windows["user"][-1]))
        if complete:
            of_complete = int(windows["count"][:complete].sum())
            yield windows[:complete], tokens[:of_complete]
            windows, tokens = windows[complete:], tokens[of_complete:]
    yield windows, tokens


def _fill_streams(
    rows: DiskTables,
    tokens: int,
    spool: VectorSpool,
    items: dict[str, int],
    categories: dict[str, int],
) -> tuple[Streams, list[int]]:
    """The streams, and the ends of duplicate windows of a user."""
    items, item_code = _sorted_codes(items)
    categories, category_code = _sorted_codes(categories)
    windows = rows.count("windows")
    streams = Streams(
        users=0,
        items=items,
        categories=categories,
        item_N=mapped_zeros(tokens, np.int32),
        category_N=mapped_zeros(tokens, np.int32),
        type_N=mapped_zeros(tokens, np.int32),
        amount_N=mapped_zeros(tokens, np.float64),
        time_ms_N=mapped_zeros(tokens, np.int64),
        user_W=mapped_zeros(windows, np.int64),
        end_ms_W=mapped_zeros(windows, np.int64),
        first_W=mapped_zeros(windows, np.int64),
        last_W=mapped_zeros(windows, np.int64),
        added_WS=mapped_zeros((windows, len(SUMS)), np.float64),
        sums_WS=mapped_zeros((windows, len(SUMS)), np.float64),
        last_purchase_ms_W=mapped_zeros(windows, np.int64),
        unusable_events=0,
        window_vectors={},
        user_key_U=np.empty(0, f"S{USER_BYTES}"),
    )
    user_keys: list[np.ndarray] = []
    window_of = np.empty(spool.windows, np.int64)
    users = first_window = first_token = 0
    duplicates_ms = []
    for windows, tokens in _sorted_parts(rows):
        part_W = slice(first_window, first_window + len(windows))
        part_N = slice(first_token, first_token + len(tokens))
        new_user = np.concatenate([[True], windows["user"][1:] != windows["user"][:-1]])
        is_duplicate = ~new_user & (np.diff(windows["end_ms"], prepend=0) == 0)
        duplicates_ms += windows["end_ms"][is_duplicate].tolist()
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
        with_vectors = np.flatnonzero(windows["vector_index"] != NO_VECTOR_INDEX)
        window_of[windows["vector_index"][with_vectors]] = first_window + with_vectors
        users += int(new_user.sum())
        user_keys.append(windows["user"][new_user])
        first_window, first_token = part_W.stop, part_N.stop
    read = streams._replace(
        users=users,
        window_vectors=spool.by_window(window_of),
        user_key_U=np.concatenate(user_keys),
    )
    return read, duplicates_ms


def _last_purchase(tokens: np.ndarray, first_W: np.ndarray, new_user_W: np.ndarray) -> np.ndarray:
    """(W,) time in ms of the user's last purchase up to each window; 0 for none."""
    purchase_ms_N = np.where(tokens["type"] == PURCHASE, tokens["time_ms"], 0)
    newest_W = np.maximum.reduceat(purchase_ms_N, first_W)
    # The purchases of a later window are all newer, so the last window with a purchase counts, if
    # it belongs to the same user.
    window_W = np.arange(len(first_W))
    first_of_user_W = np.maximum.accumulate(np.where(new_user_W, window_W, 0))
    last_with_purchase_W = np.maximum.accumulate(np.where(newest_W > 0, window_W, 0))
    return np.where(last_with_purchase_W >= first_of_user_W, newest_W[last_with_purchase_W], 0)


def _read_batches(path: Path, on_progress: Callable[[int, int], None]) -> Iterator[_RowBatch]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    # As Flink and Arrow, ignore files whose name begins with "." or "_".
    files = [file for file in files if file.is_file() and file.name[0] not in "._"]
    if not files or not path.exists():
        raise InputError(f"training rows {path}: no such file, or an empty folder")
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        row = 1
        try:
            with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as opened:
                missing = [name for name in READ.names if name not in opened.schema_arrow.names]
                if missing:
                    raise InputError(f"training rows {file}: column {missing[0]} is missing")
                for batch in opened.iter_batches(BATCH_ROWS, columns=READ.names):
                    yield _validate(batch, file, row)
                    row += len(batch)
        except pa.ArrowInvalid as error:
            raise InputError(f"training rows {file}: {str(error).splitlines()[0]}") from None
        done += file.stat().st_size
        on_progress(done, total)


def _validate(batch: pa.RecordBatch, file: Path, first_row: int) -> _RowBatch:
    """Raises InputError that names the file and the column or row."""

    def fail(rows_R: np.ndarray, problem: str) -> NoReturn:
        row = first_row + int(np.argmax(rows_R))
        raise InputError(f"training rows {file}: row {row}: {problem}")

    columns = []
    for field in READ:
        column = batch.column(field.name)
        if pa.types.is_list(field.type):
            if not pa.types.is_list(column.type):
                raise InputError(f"training rows {file}: {field.name} is {column.type}, not a list")
            # Converting these numbers one by one would be slow.
            heads = pc.list_slice(column, 0, len(SUMS), return_fixed_size_list=True)
            head_RS = heads.fill_null([None] * len(SUMS)).values.cast(pa.float64())
            head_RS = head_RS.to_numpy(zero_copy_only=False).reshape(-1, len(SUMS))
            finite_R = np.isfinite(head_RS).all(1)
            if not finite_R.all():
                fail(~finite_R, f"{field.name} must begin with {len(SUMS)} finite numbers")
            columns.append(head_RS)
            continue
        if column.type != field.type:
            raise InputError(
                f"training rows {file}: {field.name} is {column.type}, must be {field.type}"
            )
        if column.null_count:
            fail(column.is_null().to_numpy(zero_copy_only=False), f"{field.name} is missing")
        columns.append(column.to_pylist())
    return _RowBatch(*columns)


def _sorted_codes(codes: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """The sorted names and, for each old code, its new one, which is independent of the files."""
    names = sorted(codes)
    new_code = np.empty(len(names), np.int32)
    new_code[[codes[name] for name in names]] = np.arange(len(names))
    return names, new_code
