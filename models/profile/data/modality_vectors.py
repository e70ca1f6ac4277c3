"""Keeps the modality vectors of training windows on disk.

Vectors are written as they arrive, one file per modality. After the windows are sorted, each
modality gets an index from window to vector.

Shape suffixes: K windows with a vector of the modality; W width of a vector.
"""

from __future__ import annotations

import tempfile
from array import array
from typing import IO, NamedTuple

import numpy as np

from liveprofile.disk_tables import disk_full_error
from liveprofile.errors import InputError
from liveprofile.events import modalities
from liveprofile.events.modalities import Modality

NO_VECTOR_INDEX = -1  # index of a window without vectors
MAX_MODALITIES = 64  # each has an open file; more indicate encoder names that vary by event


class WindowVectors(NamedTuple):
    """The vectors of one modality, of K windows."""

    window_K: np.ndarray  # ascending
    row_K: np.ndarray  # row of the window's vector in vector_KW
    vector_KW: np.ndarray  # float32, memory-mapped

    def select(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indexes into `windows` of those that have a vector, and their vectors."""
        index = np.searchsorted(self.window_K, windows).clip(max=len(self.window_K) - 1)
        selected = np.flatnonzero(self.window_K[index] == windows)
        return selected, self.vector_KW[self.row_K[index[selected]]]

    def shuffled(self, random: np.random.Generator) -> WindowVectors:
        """The same vectors, randomly permuted among the windows."""
        return self._replace(row_K=random.permutation(self.row_K))


class VectorSpool:
    """Writes the vectors of windows to disk as they arrive; a context manager.

    Raises InputError for a full disk and for more than MAX_MODALITIES modalities.
    """

    def __init__(self) -> None:
        self._files: dict[Modality, IO[bytes]] = {}
        self._indexes: dict[Modality, array[int]] = {}  # index of each vector's window
        self.windows = 0

    def __enter__(self) -> VectorSpool:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, vectors: modalities.Vectors) -> int:
        """Adds the vectors of one window. Returns the window's index for `by_window`."""
        if not vectors:
            return NO_VECTOR_INDEX
        for modality, vector in vectors.items():
            if modality not in self._files:
                self._open(modality)
            try:
                self._files[modality].write(vector.tobytes())
            except OSError as error:
                raise disk_full_error(error) from None
            self._indexes[modality].append(self.windows)
        self.windows += 1
        return self.windows - 1

    def _open(self, modality: Modality) -> None:
        if len(self._files) == MAX_MODALITIES:
            names = ", ".join(sorted(known.name for known in self._files)[:5])
            raise InputError(
                f"training rows: vectors of more than {MAX_MODALITIES} encoders and lengths,"
                f" such as {names}; an encoder's name must stay the same from event to event"
            )
        self._files[modality] = tempfile.TemporaryFile()  # noqa: SIM115
        self._indexes[modality] = array("q")

    def by_window(self, window_of: np.ndarray) -> dict[Modality, WindowVectors]:
        """All vectors, by modality. window_of: (windows,) the sorted position of each window."""
        vectors = {}
        for modality in sorted(self._files):
            file = self._files[modality]
            try:
                file.flush()
            except OSError as error:
                raise disk_full_error(error) from None
            window_K = window_of[np.array(self._indexes[modality])]
            row_K = np.argsort(window_K)
            shape = (len(row_K), modality.numbers)
            vector_KW = np.asarray(np.memmap(file, np.float32, "r", shape=shape))
            vectors[modality] = WindowVectors(window_K[row_K], row_K, vector_KW)
        return vectors
