"""Rows of a shop's own events, as `liveprofile backfill --pipeline scoring` writes them, and its labels.

They are read twice, some at a time: first what is known without the lists (when, who, what the
labels say), then the features of those events that a training asks for, by the functions that the
job calls. Memory holds some 50 bytes an event; the features lie in temporary files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.features.entity import from_rows, read
from liveprofile.ingest.translation import time_ms_of
from liveprofile.labels.feedback import Record
from liveprofile.progress import Progress
from liveprofile.wire.scored_events import read_rows
from liveprofile.wire.tokens import EVENT_TYPES
from models.profile.data.external_sort import mapped

_ROWS_AT_ONCE = 400  # their lists fit a processor's cache
_INDEX = ("event_id", "user_id", "event_type", "event_ms", "amount")
_LISTS = ("user_id", "parts")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two times become one


class Labels(NamedTuple):
    """L labels of E events, in the order in which they were given."""

    event_id: pa.Array  # (E,)
    event_L: np.ndarray  # place in event_id
    fraud_L: np.ndarray  # bool
    time_ms_L: np.ndarray  # when it was given

    @classmethod
    def of(cls, records: Iterable[Record]) -> Labels:
        """Of valid records (liveprofile.labels.feedback). Raises InputError if there are none."""
        events: dict[str, int] = {}
        rows = []
        for record in records:
            time_ms = time_ms_of(record["time"])
            if time_ms is not None:  # as the job: 30 February is no time
                event = events.setdefault(record["event_id"], len(events))
                rows.append((time_ms, event, record["label"] == "fraud"))
        if not rows:
            raise InputError("there are no labels: nothing tells which events are frauds")
        time_ms_L, event_L, fraud_L = map(np.array, zip(*sorted(rows), strict=True))
        return cls(pa.array(list(events)), event_L, fraud_L, time_ms_L)


class OwnEvents(NamedTuple):
    """N events in order of time, and the labels among them."""

    files: list[Path]
    labels: Labels
    time_ms_N: np.ndarray
    user_N: np.ndarray  # codes from 0
    type_N: np.ndarray  # place in EVENT_TYPES
    amount_N: np.ndarray
    label_N: np.ndarray  # place among the labels' events, -1: none
    key_N: np.ndarray  # uint64, by which a row is found again

    def fraud_N(self, before_ms: int) -> np.ndarray:
        """(N,) bool: a fraud by the latest of the event's labels that were given before a time."""
        labels = self.labels
        known_L = labels.time_ms_L < before_ms
        fraud_E = np.zeros(len(labels.event_id) + 1, bool)  # the last: of events without a label
        # Of an index that comes twice numpy keeps the last value, here the latest label's.
        fraud_E[labels.event_L[known_L]] = labels.fraud_L[known_L]
        return fraud_E[self.label_N]

    def features(
        self,
        wanted_W: np.ndarray,
        names: Sequence[str],
        delay_days: float,
        on_progress: Progress = lambda stage, done, total: None,
    ) -> np.ndarray:
        """(W, F) float32 of the wanted events, in a temporary file."""
        found_WF = mapped((len(wanted_W), len(names)), np.float32)
        order = np.argsort(self.key_N[wanted_W])
        key_W = self.key_N[wanted_W][order]
        done = 0
        for group in _row_groups(self.files):
            key_n = _keys(group.columns("event_id", "event_ms"))
            at_n = np.minimum(np.searchsorted(key_W, key_n), len(key_W) - 1)
            rows = np.flatnonzero(key_W[at_n] == key_n)
            if not len(rows):
                continue
            lists = group.columns(*_LISTS).take(pa.array(rows))
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                place = order[at_n[rows[part]]]
                columns = from_rows(_read(lists.slice(start, _ROWS_AT_ONCE)), delay_days)
                for f, name in enumerate(names):
                    found_WF[place, f] = columns[name]
            done += len(rows)
            on_progress("features", done, len(wanted_W))
        return found_WF


def read_events(path: Path, labels: Labels) -> OwnEvents:
    """A Parquet file or a folder of them.

    Raises InputError naming the file and the column that is missing, and for rows that come twice
    or that no label is of.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    found = [_indexed(group.columns(*_INDEX), labels) for group in _row_groups(files)]
    if not sum(len(part["key"]) for part in found):
        raise InputError(f"training rows {path}: no events in them")
    columns = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    # By key among equal times, so that the same rows come in the same order from any files.
    order = np.lexsort((columns["key"], columns["time_ms"]))
    columns = {name: values_N[order] for name, values_N in columns.items()}
    if len(np.unique(columns["key"])) < len(order):
        raise InputError(f"training rows {path}: events come twice; keep those of one backfill")
    if (columns["label"] < 0).all():
        raise InputError(
            f"training rows {path}: none of the {len(labels.event_id)} labelled events is there"
        )
    return OwnEvents(
        files,
        labels,
        columns["time_ms"],
        np.unique(columns["user"], return_inverse=True)[1],
        columns["type"],
        columns["amount"],
        columns["label"],
        columns["key"],
    )


class _RowGroup(NamedTuple):
    file: Path
    opened: pq.ParquetFile
    number: int

    def columns(self, *names: str) -> pa.Table:
        missing = [name for name in names if name not in self.opened.schema_arrow.names]
        if missing:
            raise InputError(
                f"training rows {self.file}: column {missing[0]} is missing; are they of"
                " `liveprofile backfill --pipeline scoring`?"
            )
        return self.opened.read_row_group(self.number, list(names), use_threads=False)


def _row_groups(files: Sequence[Path]) -> Iterator[_RowGroup]:
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                for number in range(opened.num_row_groups):
                    yield _RowGroup(file, opened, number)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"training rows {file}: {str(error).splitlines()[0]}") from None


def _indexed(rows: pa.Table, labels: Labels) -> dict[str, np.ndarray]:
    event_type = pc.index_in(rows["event_type"], value_set=pa.array(EVENT_TYPES))
    label = pc.index_in(rows["event_id"], value_set=labels.event_id)
    return {
        "time_ms": rows["event_ms"].to_numpy(),
        "user": _hashed(rows["user_id"]),
        "type": event_type.to_numpy().astype(np.uint8),
        "amount": rows["amount"].to_numpy(),
        "label": label.fill_null(-1).to_numpy(),
        "key": _keys(rows),
    }


def _keys(rows: pa.Table) -> np.ndarray:
    """Of id and time: an id that comes again at another time is another event to the job."""
    return _hashed(rows["event_id"]) ^ (rows["event_ms"].to_numpy().astype(np.uint64) * _MIX)


def _hashed(texts: pa.ChunkedArray) -> np.ndarray:
    """(n,) uint64"""
    return pd.util.hash_array(texts.to_numpy(), categorize=False)


def _read(lists: pa.Table) -> Any:
    return read(read_rows(*(lists[name].to_pylist() for name in _LISTS)))
