"""Texts that occur nowhere else, in all that an event can hold, and searches for them as bytes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.kafka.records import Record

MARKS = ("user", "event", "item", "text", "device", "attribute", "coupon")
PLACE = 71.82818284  # no state, row or message has more than three decimals of it


def marker(seed: int, what: str) -> str:
    return f"marker{seed}{what}zq"


def marked_event(seed: int, number: int, time_ms: int) -> dict[str, Any]:
    return {
        "event_id": f"{marker(seed, 'event')}-{number}",
        "user_id": marker(seed, "user"),
        "event_type": "purchase",
        "event_time": time_ms,
        "item_id": marker(seed, "item"),
        "price": 10.0,
        "text": marker(seed, "text"),
        "device_id": marker(seed, "device"),
        "coupon_id": marker(seed, "coupon"),
        "place": {"lat": PLACE, "lon": 11.5},
        "attributes": {"note": marker(seed, "attribute")},
    }


def marks_of(seed: int) -> Callable[[bytes], list[str]]:
    """Finds the marks in bytes; `place` stands for the coordinates as they were sent."""
    texts = {what: marker(seed, what).encode() for what in MARKS} | {"place": str(PLACE).encode()}
    return lambda data: [what for what, text in texts.items() if text in data]


def files_with(
    folder: Path, found: Callable[[bytes], list[str]], name_of: Callable[[Path], str]
) -> dict[str, list[str]]:
    """What is found in files, by their names."""
    hits: dict[str, set[str]] = {}
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if file.is_file() and (what := found(file.read_bytes())):
                hits.setdefault(name_of(file), set()).update(what)
    return {name: sorted(what) for name, what in sorted(hits.items())}


def rows_with(
    folder: Path, found: Callable[[bytes], list[str]], gone: Collection[str]
) -> dict[str, Any]:
    """Counts training rows, those of `gone`, and the marks in their text columns."""
    rows, of_gone, marks = 0, 0, set()
    users = pa.array(sorted(gone), pa.string())
    for file in sorted(folder.rglob("*.parquet")):
        with pq.ParquetFile(file) as parquet:
            table = parquet.read()
        rows += len(table)
        of_gone += pc.sum(pc.is_in(table["user_id"], users)).as_py() or 0
        for row in table.to_pylist():
            marks.update(found(repr(row).encode()))
    return {"rows": rows, "of_erased": of_gone, "marks": sorted(marks)}


def records_with(
    records: Iterable[Record], found: Callable[[bytes], list[str]], keys: Mapping[bytes, str]
) -> Counter[str]:
    """Counts records by the marks in key and value, and as `key` those with one of the keys."""
    counts: Counter[str] = Counter()
    for record in records:
        counts["records"] += 1
        counts.update(found((record.key or b"") + b"\0" + (record.value or b"")))
        counts["key"] += (record.key or b"") in keys
    return +counts
