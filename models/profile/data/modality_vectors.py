"""What windows of training rows bring beside tokens, on disk: models/profile/data/external_sort.py is for the tokens.

Vectors are written as they come, one file a modality; once the windows are in order, each modality
is told which window has which vector.
"""

from __future__ import annotations

import tempfile
from array import array
from typing import IO, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.events import modalities
from liveprofile.events.modalities import Modality
from models.profile.data.external_sort import NO_VECTORS, no_room

MOST_MODALITIES = 64  # each has an open file; more than these are no encoders


class Brought(NamedTuple):
    """The vectors of one modality, of K windows."""

    window_K: np.ndarray  # ascending
    row_K: np.ndarray  # which vector is the window's
    vector_KW: np.ndarray  # float32, on disk

    def of(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of `windows` have a vector, as places, and those vectors."""
        place = np.searchsorted(self.window_K, windows).clip(max=len(self.window_K) - 1)
        found = np.flatnonzero(self.window_K[place] == windows)
        return found, self.vector_KW[self.row_K[place[found]]]

    def dealt_anew(self, random: np.random.Generator) -> Brought:
        """The same vectors, each another window's."""
        return self._replace(row_K=random.permutation(self.row_K))


class Vectors:
    """Takes what windows bring as they come; a context manager. Raises InputError for a full disk
    and for more than MOST_MODALITIES."""

    def __init__(self) -> None:
        self._files: dict[Modality, IO[bytes]] = {}
        self._numbers: dict[Modality, array[int]] = {}  # of the windows, in the order of the file
        self.windows = 0

    def __enter__(self) -> Vectors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, vectors: modalities.Vectors) -> int:
        """One window's. The number by which `in_order` will be told of the window."""
        if not vectors:
            return NO_VECTORS
        for modality, vector in vectors.items():
            if modality not in self._files:
                self._open(modality)
            try:
                self._files[modality].write(vector.tobytes())
            except OSError as error:
                raise no_room(error) from None
            self._numbers[modality].append(self.windows)
        self.windows += 1
        return self.windows - 1

    def _open(self, modality: Modality) -> None:
        if len(self._files) == MOST_MODALITIES:
            names = ", ".join(sorted(one.name for one in self._files)[:5])
            raise InputError(
                f"training rows: vectors of more than {MOST_MODALITIES} encoders and lengths,"
                f" such as {names}; an encoder's name must stay the same from event to event"
            )
        self._files[modality] = tempfile.TemporaryFile()  # noqa: SIM115
        self._numbers[modality] = array("q")

    def in_order(self, window_of: np.ndarray) -> dict[Modality, Brought]:
        """window_of: (windows,) the place of each numbered window."""
        found = {}
        for modality in sorted(self._files):
            file = self._files[modality]
            try:
                file.flush()
            except OSError as error:
                raise no_room(error) from None
            window_K = window_of[np.array(self._numbers[modality])]
            row_K = np.argsort(window_K)
            shape = (len(row_K), modality.numbers)
            vector_KW = np.asarray(np.memmap(file, np.float32, "r", shape=shape))
            found[modality] = Brought(window_K[row_K], row_K, vector_KW)
        return found
