"""Splits rows into passes that fit into the device's memory.

Python frees a failed pass only when its exception is gone, so the cache is freed and the rows are
repeated outside of `except`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from models.profile.device import DeviceMemoryError, first_line

# Memory is often short for a while only, for example while a new model warms up beside the old one.
# If it still is, one pass in so many is wasted.
GROWTH_PASSES = 1_000

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Passes:
    """Runs a function on slices of rows. Out of memory halves the rows of a slice.

    most_rows: of a slice. The smaller size stays, and doubles after GROWTH_PASSES passes without an
    error. free_cache: called after an error. Not thread-safe.
    """

    def __init__(
        self,
        most_rows: int,
        free_cache: Callable[[], None] = torch.cuda.empty_cache,
        growth_passes: int = GROWTH_PASSES,
    ):
        self._most_rows, self._free_cache = most_rows, free_cache
        self._growth_passes = growth_passes
        self.rows = most_rows
        self._passed = 0  # since the size changed
        self._logged: set[int] = set()

    def run(
        self, rows: int, function: Callable[[slice], Result], most_rows: int | None = None
    ) -> list[Result]:
        """The results of consecutive slices of 0..rows.

        `function` is called again for the rows of a slice that raised torch.OutOfMemoryError, and
        for no others. most_rows: a smaller limit for this function. Raises DeviceMemoryError if a
        single row does not fit.
        """
        results: list[Result] = []
        first = 0
        while first < rows:
            part = slice(first, min(rows, first + min(self.rows, most_rows or self.rows)))
            size = part.stop - part.start
            try:
                results.append(function(part))
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise DeviceMemoryError(
                        "the device has no memory left to score a single row; free some of it, or"
                        f" start fewer workers on it: {first_line(error)}"
                    ) from error
            else:
                first = part.stop
                self._grow()
                continue
            self._halve(size)
        return results

    def _halve(self, size: int) -> None:
        self.rows, self._passed = size // 2, 0
        self._free_cache()
        if self.rows not in self._logged:
            self._logged.add(self.rows)
            log.warning(
                "out of device memory with %d rows: passes have at most %d rows now",
                size,
                self.rows,
            )

    def _grow(self) -> None:
        if self.rows < self._most_rows:
            self._passed += 1
            if self._passed == self._growth_passes:
                self.rows, self._passed = min(2 * self.rows, self._most_rows), 0
