"""Sorts windows and their tokens on disk, in memory that does not grow with their number.

The external merge sort writes runs sorted by user as windows arrive, then merges them one range of
users at a time. A user is the 128-bit hash of the id (BLAKE2b, RFC 7693): hashes make the ranges
similar in size and need no dictionary of users.

All files are unnamed temporary files in TMPDIR. The system removes them when the process ends, even
if it is killed.

Shape suffix: W windows of one run or part.
"""

from __future__ import annotations

import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from liveprofile.errors import InputError
from liveprofile.features.baselines import SUMS
from liveprofile.privacy.trained_users import USER_BYTES
from models.profile.encoding import concatenated_ranges

RUN_BYTES = PART_BYTES = 8 << 20
NO_VECTOR_INDEX = -1  # index of a window without vectors
WINDOW_DTYPE = np.dtype(
    [
        ("user", f"S{USER_BYTES}"),
        ("end_ms", np.int64),
        ("first", np.int64),  # index of the first token
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


def mapped_zeros(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in a memory-mapped temporary file, which lives as long as the array.

    Raises InputError if the disk is full.
    """
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            # Allocated now: a full disk at the first write to a page would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise disk_full_error(error) from None
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


class ExternalSorter:
    """Collects windows and returns them sorted; a context manager.

    Raises InputError if the disk is full.
    """

    def __init__(self) -> None:
        self._window_file, self._token_file = (
            tempfile.TemporaryFile()  # noqa: SIM115
            for _ in range(2)
        )
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting_bytes = 0
        self._run_ends = [0]
        self.windows = self.tokens = 0

    def __enter__(self) -> ExternalSorter:
        return self

    def __exit__(self, *_: object) -> None:
        self._window_file.close()
        self._token_file.close()

    def add(self, windows: np.ndarray, tokens: np.ndarray) -> None:
        """Adds windows (WINDOW_DTYPE, `first` is ignored) and their tokens, window by window."""
        self._waiting.append((windows, tokens))
        self._waiting_bytes += windows.nbytes + tokens.nbytes
        self.windows += len(windows)
        self.tokens += len(tokens)
        if self._waiting_bytes >= RUN_BYTES:
            self._write_run()

    def _write_run(self) -> None:
        windows, tokens = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._waiting, self._waiting_bytes = [], 0
        order_W = np.argsort(windows["user"])
        last_W = np.cumsum(windows["count"])
        tokens = tokens[concatenated_ranges((last_W - windows["count"])[order_W], last_W[order_W])]
        windows = windows[order_W]
        last_W = self.tokens - len(tokens) + np.cumsum(windows["count"])
        windows["first"] = last_W - windows["count"]
        try:
            for file, records in ((self._window_file, windows), (self._token_file, tokens)):
                file.write(records.tobytes())
                file.flush()
        except OSError as error:
            raise disk_full_error(error) from None
        self._run_ends.append(self.windows)

    def sorted_parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields windows sorted by user and end, and their tokens, about PART_BYTES at a time.

        All windows of a user are in one part.
        """
        if self._waiting:
            self._write_run()
        windows = np.asarray(np.memmap(self._window_file, WINDOW_DTYPE, "r"))
        tokens = np.asarray(np.memmap(self._token_file, TOKEN_DTYPE, "r"))
        parts = 1 + (windows.nbytes + tokens.nbytes) // PART_BYTES
        user_W = windows["user"]
        starts, ends = self._run_ends[:-1], self._run_ends[1:]
        for part in range(1, parts + 1):
            last_user = ((part << 8 * USER_BYTES) // parts - 1).to_bytes(USER_BYTES)
            cuts = [
                bisect_right(user_W, last_user, start, end)
                for start, end in zip(starts, ends, strict=True)
            ]
            part_windows = np.concatenate(
                [windows[start:cut] for start, cut in zip(starts, cuts, strict=True)]
            )
            part_windows = part_windows[np.lexsort((part_windows["end_ms"], part_windows["user"]))]
            if len(part_windows):
                first_W = part_windows["first"]
                last_W = first_W + part_windows["count"]
                yield part_windows, tokens[concatenated_ranges(first_W, last_W)]
            starts = cuts


def disk_full_error(error: OSError) -> InputError:
    """The InputError for a failed write to a temporary file."""
    return InputError(
        f"temporary folder {tempfile.gettempdir()}: {error.strerror};"
        " set TMPDIR to a folder with more space"
    )
