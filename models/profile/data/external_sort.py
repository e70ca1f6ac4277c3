"""Windows and their tokens put in order on disk, so that memory stays flat however many they are.

An external merge sort: runs in order of user are written as windows come, then merged one range of
users after the other. A user is the 128-bit hash of the id (BLAKE2b, RFC 7693), which makes ranges
alike in size and needs no dictionary of users.

All files are temporary ones without a name, in TMPDIR: they are gone with what uses them, even if
the process is killed.
"""

from __future__ import annotations

import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from liveprofile.errors import InputError
from liveprofile.features.baselines import SUMS
from models.profile.encoding import spans

RUN_BYTES = PART_BYTES = 8 << 20
USER_BYTES = 16
NO_VECTORS = -1
WINDOW = np.dtype(
    [
        ("user", f"S{USER_BYTES}"),
        ("end_ms", np.int64),
        ("first", np.int64),  # place of the first token
        ("count", np.int64),
        ("added", np.float64, len(SUMS)),
        ("sums", np.float64, len(SUMS)),
        (
            "beside",
            np.int64,
        ),  # its number in models.profile.data.modality_vectors.Vectors, or NO_VECTORS
    ]
)
TOKEN = np.dtype(
    [
        ("item", np.int32),
        ("category", np.int32),
        ("type", np.int32),
        ("amount", np.float64),
        ("time_ms", np.int64),
    ]
)


def mapped(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in a file that goes with the array. Raises InputError if the disk is full."""
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            # A full disk is an error here; when a page is written, it would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise no_room(error) from None
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def user_key(user_id: str) -> bytes:
    return blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=USER_BYTES).digest()


class Spool:
    """Takes windows as they come and gives them back in order; a context manager.

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

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._window_file.close()
        self._token_file.close()

    def add(self, windows: np.ndarray, tokens: np.ndarray) -> None:
        """Windows (their `first` is not read) and the tokens of one after the other."""
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
        tokens = tokens[spans((last_W - windows["count"])[order_W], last_W[order_W])]
        windows = windows[order_W]
        last_W = self.tokens - len(tokens) + np.cumsum(windows["count"])
        windows["first"] = last_W - windows["count"]
        try:
            for file, records in ((self._window_file, windows), (self._token_file, tokens)):
                file.write(records.tobytes())
                file.flush()
        except OSError as error:
            raise no_room(error) from None
        self._run_ends.append(self.windows)

    def in_order(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All windows by user and end, and their tokens: whole users, some PART_BYTES at a time."""
        if self._waiting:
            self._write_run()
        windows = np.asarray(np.memmap(self._window_file, WINDOW, "r"))
        tokens = np.asarray(np.memmap(self._token_file, TOKEN, "r"))
        parts = 1 + (windows.nbytes + tokens.nbytes) // PART_BYTES
        user_W = windows["user"]
        starts, ends = self._run_ends[:-1], self._run_ends[1:]
        for part in range(1, parts + 1):
            last_user = ((part << 8 * USER_BYTES) // parts - 1).to_bytes(USER_BYTES)
            cuts = [
                bisect_right(user_W, last_user, start, end)
                for start, end in zip(starts, ends, strict=True)
            ]
            chosen = np.concatenate(
                [windows[start:cut] for start, cut in zip(starts, cuts, strict=True)]
            )
            chosen = chosen[np.lexsort((chosen["end_ms"], chosen["user"]))]
            if len(chosen):
                last_W = chosen["first"] + chosen["count"]
                yield chosen, tokens[spans(chosen["first"], last_W)]
            starts = cuts


def no_room(error: OSError) -> InputError:
    """Of a temporary file."""
    return InputError(
        f"temporary folder {tempfile.gettempdir()}: {error.strerror};"
        " set TMPDIR to one with more room"
    )
