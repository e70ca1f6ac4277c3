"""A shop's own scored events with labels, from rows of
`liveprofile model backfill --pipeline scoring`.

The rows are read twice, in chunks. The first pass reads an index (time, user, labels) of all
events. The second pass computes the features of the requested events, with the job's functions.
Memory holds about 50 bytes per event; the features are in temporary files.

Shape suffixes: N events, L labels, E labelled events, W requested events, F features, n rows of a
row group.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from intake.labels import LabelRecord
from liveprofile.disk_tables import mapped_zeros
from liveprofile.errors import InputError
from liveprofile.events.validation import event_time_ms
from liveprofile.features.entity import COLUMN_OF, features_from_lists, parse_lists
from liveprofile.progress import Progress
from liveprofile.wire.scored_events import read_rows
from liveprofile.wire.tokens import EVENT_TYPES
from models.trained_users import user_key

USER = "user_id"
_CHUNK_ROWS = 400  # their lists fit a processor's cache
_INDEX_COLUMNS = ("event_id", USER, "event_type", "event_ms", "amount")
_LIST_COLUMNS = (USER, "parts")
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so no two times become the same number


class LabelLog(NamedTuple):
    """L labels of E events, in order of label time."""

    event_id: pa.Array  # (E,)
    event_L: np.ndarray  # index into event_id
    fraud_L: np.ndarray  # bool
    time_ms_L: np.ndarray  # when the label was given

    @classmethod
    def from_records(cls, records: Iterable[LabelRecord]) -> Self:
        """Builds the log from valid records. Raises InputError if there are none."""
        events: dict[str, int] = {}
        rows = []
        for record in records:
            time_ms = event_time_ms(record["time"])
            if time_ms is not None:  # like the job, drop times such as 30 February
                event = events.setdefault(record["event_id"], len(events))
                rows.append((time_ms, event, record["label"] == "fraud"))
        if not rows:
            raise InputError("there are no labels: training needs to know which events are frauds")
        rows.sort()
        return cls(
            pa.array(list(events)),
            event_L=np.array([event for _, event, _ in rows]),
            fraud_L=np.array([is_fraud for _, _, is_fraud in rows]),
            time_ms_L=np.array([time_ms for time_ms, _, _ in rows]),
        )


class LabelledEvents(NamedTuple):
    """N events in order of time, with their labels."""

    files: list[Path]
    without: frozenset[str]  # users whose rows are left out
    labels: LabelLog
    time_ms_N: np.ndarray
    user_N: np.ndarray  # codes from 0
    type_N: np.ndarray  # index into EVENT_TYPES
    amount_N: np.ndarray
    label_N: np.ndarray  # index into labels.event_id, -1: no label
    key_N: np.ndarray  # uint64, identifies a row in the second pass

    def fraud_N(self, before_ms: int) -> np.ndarray:
        """Returns (N,) bool: the event's latest label from before this time says fraud."""
        labels = self.labels
        known_L = labels.time_ms_L < before_ms
        fraud_E = np.zeros(len(labels.event_id) + 1, bool)  # the last: events without a label
        # For a repeated index numpy keeps the last value, which is the latest label.
        fraud_E[labels.event_L[known_L]] = labels.fraud_L[known_L]
        return fraud_E[self.label_N]

    def fingerprint(self) -> str:
        """SHA-256 of the events, independent of how rows are split into files."""
        return hashlib.sha256(self.key_N.tobytes()).hexdigest()

    def user_keys(self) -> Iterator[bytes]:
        """The `user_key` of each user."""
        found: set[str] = set()
        for rows in _tables(self.files, self.without, (USER,)):
            found.update(rows[USER].unique().to_pylist())
        return map(user_key, sorted(found))

    def features(
        self,
        rows_W: np.ndarray,
        names: Sequence[str],
        delay_days: float,
        on_progress: Progress = lambda stage, done, total: None,
    ) -> np.ndarray:
        """Returns (W, F) float32 features of these events, in a temporary file."""
        x_WF = mapped_zeros((len(rows_W), len(names)), np.float32)
        order = np.argsort(self.key_N[rows_W])
        key_W = self.key_N[rows_W][order]
        done, index = 0, [COLUMN_OF[name] for name in names]
        keys = (USER, "event_id", "event_ms")

        def has_wanted(file: Path) -> bool:  # lists are large
            found = (_event_keys(rows) for rows in _tables([file], self.without, keys))
            return any(np.isin(key_n, key_W).any() for key_n in found)

        files = list(filter(has_wanted, self.files))
        for table in _tables(files, self.without, (*keys, "parts")):
            key_n = _event_keys(table)
            position_n = np.minimum(np.searchsorted(key_W, key_n), len(key_W) - 1)
            rows = np.flatnonzero(key_W[position_n] == key_n)
            lists = table.select(_LIST_COLUMNS).take(pa.array(rows))
            for start in range(0, len(rows), _CHUNK_ROWS):
                target_rows = order[position_n[rows[start : start + _CHUNK_ROWS]]]
                features = features_from_lists(_parse(lists.slice(start, _CHUNK_ROWS)), delay_days)
                x_WF[target_rows] = features[:, index]
            done += len(rows)
            on_progress("features", done, len(rows_W))
        return x_WF


def read_labelled_events(
    path: Path, labels: LabelLog, without: Collection[str] = ()
) -> LabelledEvents:
    """Reads a Parquet file or a folder of them. without: users whose rows are left out.

    Raises InputError for a file that is unreadable or lacks a column, for duplicate rows, and if no
    row has a label.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    left_out = frozenset(without)
    indexed = [_read_index(rows, labels) for rows in _tables(files, left_out, _INDEX_COLUMNS)]
    if not sum(len(chunk["key"]) for chunk in indexed):
        raise InputError(f"training rows {path}: no events in them")
    columns = {name: np.concatenate([chunk[name] for chunk in indexed]) for name in indexed[0]}
    # Equal times are sorted by key, so the order does not depend on how rows are split into files.
    order = np.lexsort((columns["key"], columns["time_ms"]))
    columns = {name: values_N[order] for name, values_N in columns.items()}
    if len(np.unique(columns["key"])) < len(order):
        raise InputError(f"training rows {path}: duplicate events; keep the rows of one backfill")
    if (columns["label"] < 0).all():
        raise InputError(
            f"training rows {path}: none of the {len(labels.event_id)} labelled events is in them"
        )
    return LabelledEvents(
        files,
        left_out,
        labels,
        columns["time_ms"],
        np.unique(columns["user"], return_inverse=True)[1],
        columns["type"],
        columns["amount"],
        columns["label"],
        columns["key"],
    )


def _tables(
    files: Sequence[Path], without: frozenset[str], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """These columns, USER among them, of each row group without the users of `without`.

    Raises InputError.
    """
    gone = pa.array(sorted(without), pa.string())
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                missing = [name for name in columns if name not in parquet.schema_arrow.names]
                if missing:
                    raise InputError(
                        f"training rows {file}: column {missing[0]} is missing; did"
                        " `liveprofile model backfill --pipeline scoring` write it?"
                    )
                for number in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(number, list(columns), use_threads=False)
                    yield rows.filter(pc.invert(pc.is_in(rows[USER], gone))) if without else rows
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"training rows {file}: {str(error).splitlines()[0]}") from None


def _read_index(rows: pa.Table, labels: LabelLog) -> dict[str, np.ndarray]:
    event_type = pc.index_in(rows["event_type"], value_set=pa.array(EVENT_TYPES))
    label = pc.index_in(rows["event_id"], value_set=labels.event_id)
    return {
        "time_ms": rows["event_ms"].to_numpy(),
        "user": _hash(rows["user_id"]),
        "type": event_type.to_numpy().astype(np.uint8),
        "amount": rows["amount"].to_numpy(),
        "label": label.fill_null(-1).to_numpy(),
        "key": _event_keys(rows),
    }


def _event_keys(rows: pa.Table) -> np.ndarray:
    """Hashes id and time: to the job, an id that recurs at another time is another event."""
    return _hash(rows["event_id"]) ^ (
        rows["event_ms"].to_numpy().astype(np.uint64) * _HASH_MULTIPLIER
    )


def _hash(texts: pa.ChunkedArray) -> np.ndarray:
    """(n,) uint64"""
    return pd.util.hash_array(texts.to_numpy(), categorize=False)


def _parse(lists: pa.Table) -> Any:
    return parse_lists(read_rows(*(lists[name].to_pylist() for name in _LIST_COLUMNS)))
