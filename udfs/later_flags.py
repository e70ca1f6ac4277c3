"""The flags of users since their erasure: a FlagHistoryReader for both pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from liveprofile.privacy.erasures import ErasureBook, later_flags
from liveprofile.rules.flag_policy import FlagHistoryReader
from liveprofile.rules.flags import FlagHistory, FlagQuery


class LaterFlags:
    """Flag histories without what is erased: tables are cleared a moment after the erasure.

    span_ms: the length of a window; 0 for events. current: the book in force.
    """

    def __init__(self, store: FlagHistoryReader, span_ms: int, current: Callable[[], ErasureBook]):
        self._store, self._span_ms, self._current = store, span_ms, current

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        found, book = self._store.flag_history(queries), self._current()
        if not len(book):
            return found
        return [
            history if before_ms is None else later_flags(history, before_ms + self._span_ms)
            for history, query in zip(found, queries, strict=True)
            for before_ms in (book.before_ms(query.user_id),)
        ]
