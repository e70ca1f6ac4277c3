"""Rows on disk, sorted in runs, that are read again one key range at a time.

Memory does not grow with the number of rows. The file is an unnamed temporary file in TMPDIR: the
system removes it when the process ends, even if it is killed.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from liveprofile.errors import InputError

KEY_BITS = 64


class Spool:
    """Collects rows of a structured dtype with the field `key`; a context manager.

    dtype: aligned; `key` is uint64 if `parts` is used, and then spread evenly over its values.
    run_rows: rows in memory until they are sorted and written.
    """

    def __init__(self, dtype: np.dtype, run_rows: int):
        self._dtype, self._run_rows = dtype, run_rows
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._waiting: list[np.ndarray] = []
        self._waiting_rows = 0
        self._run_ends = [0]

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._run_ends[-1] + self._waiting_rows

    def add(self, rows: np.ndarray) -> None:
        """Adds rows in any order. Raises InputError if the disk is full."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self._run_rows:
            self._write_run()

    def parts(self, count: int) -> Iterator[np.ndarray]:
        """Yields the rows in `count` parts by ascending ranges of their keys.

        Two spools with the same `count` have the same ranges.
        """
        self._write_run()
        starts = self._run_ends[:-1]
        for part in range(1, count + 1):
            last_key = (part << KEY_BITS) // count - 1
            cuts = [
                start + bisect_right(range(start, end), last_key, key=self._key)
                for start, end in zip(starts, self._run_ends[1:], strict=True)
            ]
            pieces = [self._read(start, cut) for start, cut in zip(starts, cuts, strict=True)]
            yield np.concatenate([np.empty(0, self._dtype), *pieces])
            starts = cuts

    def _key(self, row: int) -> int:
        return int(self._read(row, row + 1)["key"][0])

    def _read(self, start: int, end: int) -> np.ndarray:
        """Reads rows without a map, whose pages would stay in memory."""
        size = self._dtype.itemsize
        data = os.pread(self._file.fileno(), (end - start) * size, start * size)
        return np.frombuffer(data, self._dtype)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """(N,) bool: whether each of the (N,) keys was added."""
        self._write_run()
        rows, found = self._mapped(), np.zeros(len(keys), bool)
        for start, end in zip(self._run_ends, self._run_ends[1:], strict=False):
            run = rows["key"][start:end]
            at = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            found |= run[at] == keys
        return found

    def _mapped(self) -> np.ndarray:
        if not self._run_ends[-1]:
            return np.empty(0, self._dtype)
        return np.asarray(np.memmap(self._file, self._dtype, "r"))

    def _write_run(self) -> None:
        if not self._waiting_rows:
            return
        rows = np.concatenate(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        rows = rows[np.argsort(rows["key"])]
        try:
            self._file.write(rows.data)
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"temporary folder {tempfile.gettempdir()}: {error.strerror};"
                " set TMPDIR to a folder with more space"
            ) from None
        self._run_ends.append(self._run_ends[-1] + len(rows))
