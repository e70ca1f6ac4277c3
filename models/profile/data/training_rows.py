"""Reads training rows, which the backfill writes one per user and window, into flat arrays.

The rows are Parquet files. A user's history is the concatenation of the previous windows, so the
windows alone rebuild every stream. The baselines are the sums that the job's SQL computed.

Shape suffixes: N tokens; W windows; R rows of a batch; S sums of
liveprofile.features.baselines.SUMS; K windows with a vector of a modality; V width of a vector.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.disk_tables import disk_full_error, mapped_zeros
from liveprofile.errors import InputError
from liveprofile.events.modalities import Modality, Vectors, add_text_vectors
from liveprofile.events.window import TrainingWindow, parse_training_window
from liveprofile.features.baselines import SUMS
from liveprofile.wire.tokens import TYPE_INDEX
from liveprofile.wire.training_rows import PROFILE
from models.profile.device import passes
from models.profile.encoding import concatenated_ranges
from models.profile.text_encoder import TextEncoder
from models.trained_users import USER_BYTES, user_key

PURCHASE = TYPE_INDEX["purchase"]
READ = pa.schema(map(PROFILE.field, ("user_id", "window_end_ms", "events", "added", "sums")))
BATCH_ROWS = 512
BUFFER_BYTES = 1 << 20
PART_WINDOWS = 20_000
MAX_MODALITIES = 64  # each has an open file; more indicate encoder names that vary by event
WINDOW_DTYPE = np.dtype(
    [
        ("user", f"S{USER_BYTES}"),
        ("end_ms", np.int64),
        ("count", np.int64),
        ("added", np.float64, len(SUMS)),
        ("sums", np.float64, len(SUMS)),
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


class WindowVectors(NamedTuple):
    """The vectors of one modality, of K windows."""

    window_K: np.ndarray  # ascending
    row_K: np.ndarray  # row of the window's vector in vector_KV
    vector_KV: np.ndarray  # float32, memory-mapped

    def select(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indexes into `windows` of those that have a vector, and their vectors."""
        index = np.searchsorted(self.window_K, windows).clip(max=len(self.window_K) - 1)
        selected = np.flatnonzero(self.window_K[index] == windows)
        return selected, self.vector_KV[self.row_K[index[selected]]]

    def shuffled(self, random: np.random.Generator) -> WindowVectors:
        """The same vectors, randomly permuted among the windows."""
        return self._replace(row_K=random.permutation(self.row_K))


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
                digest.update(vectors.vector_KV[vectors.row_K[first : first + BATCH_ROWS]])
        return digest.hexdigest()


class _Spool:
    """Records that are appended to a temporary file, and memory-mapped at the end."""

    def __init__(self, files: ExitStack, dtype: Any):
        self._file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._dtype, self.size = dtype, 0

    def add(self, records: np.ndarray) -> None:
        """Raises InputError for a full disk."""
        try:
            self._file.write(records.tobytes())
            self._file.flush()
        except OSError as error:
            raise disk_full_error(error) from None
        self.size += len(records)

    def mapped(self) -> np.ndarray:
        return np.asarray(np.memmap(self._file, self._dtype, "r", shape=self.size))


class _VectorSpool:
    """The vectors of windows, one file for each modality."""

    def __init__(self, files: ExitStack):
        self._files = files
        self._spools: dict[Modality, tuple[_Spool, array[int]]] = {}

    def add(self, window: int, vectors: Vectors) -> None:
        """Raises InputError for a full disk and for more than MAX_MODALITIES modalities."""
        for modality, vector in vectors.items():
            if modality not in self._spools:
                if len(self._spools) == MAX_MODALITIES:
                    names = ", ".join(sorted(known.name for known in self._spools)[:5])
                    raise InputError(
                        f"training rows: vectors of more than {MAX_MODALITIES} encoders and"
                        f" lengths, such as {names}; an encoder's name must stay the same from"
                        " event to event"
                    )
                self._spools[modality] = _Spool(self._files, np.float32), array("q")
            spool, windows = self._spools[modality]
            spool.add(vector)
            windows.append(window)

    def by_window(self, place_W: np.ndarray) -> dict[Modality, WindowVectors]:
        """All vectors, by modality. place_W: the sorted place of each window."""
        vectors = {}
        for modality, (spool, windows) in sorted(self._spools.items(), key=lambda each: each[0]):
            window_K = place_W[np.asarray(windows)]
            row_K = np.argsort(window_K)
            vector_KV = spool.mapped().reshape(-1, modality.numbers)
            vectors[modality] = WindowVectors(window_K[row_K], row_K, vector_KV)
        return vectors


class _RowBatch(NamedTuple):
    """R validated rows."""

    user_id: list[str]
    window_end_ms: list[int]
    events: list[str]
    added: np.ndarray  # (R, S)
    sums: np.ndarray


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
    unusable, left_out = 0, frozenset(without)
    with ExitStack() as files:
        windows, tokens = _Spool(files, WINDOW_DTYPE), _Spool(files, TOKEN_DTYPE)
        vector_spool = _VectorSpool(files)
        for batch in _read_batches(path, on_progress):
            rows, parsed = [], []
            for row, (user, events) in enumerate(zip(batch.user_id, batch.events, strict=True)):
                if events and user not in left_out:
                    window = parse_training_window(events)
                    unusable += window.rejected
                    if window.tokens:
                        rows.append(row)
                        parsed.append(window)
            vectors = [window.modalities.vectors for window in parsed]
            if encode_texts:
                vectors = add_text_vectors(vectors, [each.text for each in parsed], encode_texts)
            for place, its_vectors in enumerate(vectors, windows.size):
                vector_spool.add(place, its_vectors)
            windows.add(_window_records(batch, rows, parsed))
            tokens.add(_token_records(parsed, items, categories))
        if not windows.size:
            raise InputError(f"training rows {path}: no events in them")
        spooled = windows.mapped(), tokens.mapped()
        streams, place_W = _sorted_streams(path, *spooled, items, categories)
        return streams._replace(
            unusable_events=unusable, window_vectors=vector_spool.by_window(place_W)
        )


def _window_records(batch: _RowBatch, rows: list[int], parsed: list[TrainingWindow]) -> np.ndarray:
    records = np.empty(len(rows), WINDOW_DTYPE)
    records["user"] = [user_key(batch.user_id[row]) for row in rows]
    records["end_ms"] = [batch.window_end_ms[row] for row in rows]
    records["count"] = [len(window.tokens) for window in parsed]
    records["added"], records["sums"] = batch.added[rows], batch.sums[rows]
    return records


def _token_records(
    parsed: list[TrainingWindow], items: dict[str, int], categories: dict[str, int]
) -> np.ndarray:
    records = np.empty(sum(len(window.tokens) for window in parsed), TOKEN_DTYPE)
    if len(records):
        columns = zip(*chain.from_iterable(window.tokens for window in parsed), strict=True)
        records["time_ms"], records["type"], item, category, records["amount"] = columns
        records["item"] = [items[name] for name in item]
        records["category"] = [categories[name] for name in category]
    return records


def _sorted_streams(
    path: Path,
    windows: np.ndarray,
    tokens: np.ndarray,
    items: dict[str, int],
    categories: dict[str, int],
) -> tuple[Streams, np.ndarray]:
    """The streams without vectors, and the sorted place of each window.

    Raises InputError for duplicate windows.
    """
    order_W = np.lexsort((windows["end_ms"], windows["user"]))
    place_W = np.empty_like(order_W)
    place_W[order_W] = np.arange(len(order_W))
    source_end_W = np.cumsum(windows["count"])
    user_W, user_key_U = _numbered(windows["user"][order_W])
    new_user_W = np.diff(user_W, prepend=-1) > 0
    end_ms_W, count_W = (_mapped(windows[name][order_W]) for name in ("end_ms", "count"))
    duplicates_ms = end_ms_W[~new_user_W & (np.diff(end_ms_W, prepend=0) == 0)]
    if len(duplicates_ms):
        raise InputError(
            f"training rows {path}: {len(duplicates_ms)} duplicate windows (same user and end), one"
            f" ends at {duplicates_ms[0]}; keep the rows of one backfill only"
        )
    item_names, item_code = _sorted_codes(items)
    category_names, category_code = _sorted_codes(categories)
    last_W = _mapped(np.cumsum(count_W))
    streams = Streams(
        users=len(user_key_U),
        items=item_names,
        categories=category_names,
        **{f"{name}_N": mapped_zeros(len(tokens), TOKEN_DTYPE[name]) for name in TOKEN_DTYPE.names},
        user_W=user_W,
        end_ms_W=end_ms_W,
        first_W=_mapped(last_W - count_W),
        last_W=last_W,
        added_WS=mapped_zeros((len(windows), len(SUMS)), np.float64),
        sums_WS=mapped_zeros((len(windows), len(SUMS)), np.float64),
        last_purchase_ms_W=mapped_zeros(len(windows), np.int64),
        unusable_events=0,
        window_vectors={},
        user_key_U=user_key_U,
    )
    for part_W in passes(len(windows), PART_WINDOWS):
        first, last = streams.first_W[part_W], last_W[part_W]
        part_N, source_W = slice(first[0], last[-1]), order_W[part_W]
        source_end = source_end_W[source_W]
        of_part = tokens[concatenated_ranges(source_end - count_W[part_W], source_end)]
        of_part["item"] = item_code[of_part["item"]]
        of_part["category"] = category_code[of_part["category"]]
        streams.time_ms_N[part_N] = of_part["time_ms"]
        streams.type_N[part_N] = of_part["type"]
        streams.item_N[part_N] = of_part["item"]
        streams.category_N[part_N] = of_part["category"]
        streams.amount_N[part_N] = of_part["amount"]
        streams.added_WS[part_W] = windows["added"][source_W]
        streams.sums_WS[part_W] = windows["sums"][source_W]
        purchase_ms_N = np.where(of_part["type"] == PURCHASE, of_part["time_ms"], 0)
        newest_W = np.maximum.reduceat(purchase_ms_N, first - first[0])
        streams.last_purchase_ms_W[part_W] = newest_W
    _carry_over(streams.last_purchase_ms_W, new_user_W)
    return streams, place_W


def _numbered(key_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each window's user, and each user's key. `key_W` ascends."""
    is_new_W = np.append(True, key_W[1:] != key_W[:-1])
    return _mapped(np.cumsum(is_new_W) - 1), key_W[is_new_W]


def _mapped(values: np.ndarray) -> np.ndarray:
    mapped = mapped_zeros(values.shape, values.dtype)
    mapped[:] = values
    return mapped


def _carry_over(newest_ms_W: np.ndarray, new_user_W: np.ndarray) -> None:
    """Gives windows without a purchase the time of the user's last one before, in place.

    The purchases of a later window are all newer.
    """
    window_W = np.arange(len(newest_ms_W))
    first_of_user_W = np.maximum.accumulate(np.where(new_user_W, window_W, 0))
    last_W = np.maximum.accumulate(np.where(newest_ms_W > 0, window_W, 0))
    newest_ms_W[:] = np.where(last_W >= first_of_user_W, newest_ms_W[last_W], 0)


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
