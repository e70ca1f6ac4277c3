"""The rows of a batch as they arrive, and what of them users allow.

Flink's SQL cannot delete one user's state, so the state still holds the past of an erased user when
later events arrive. Here it ends: windows before the erasure are refused, and later windows get the
history and the sums of a user without a past and computed attributes without the tiles that began
before.

The sums of the SQL have no limit in time. So the sums since the erasure are added up here, and
stored with each window of such a user: a worker that restarts goes on from them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import NamedTuple, Protocol

import numpy as np

from liveprofile.consent.changes import ConsentTable
from liveprofile.privacy.erasures import ErasureTable, erased_rows, first_window_ms
from liveprofile.wire import window_events
from liveprofile.wire.attribute_tiles import tiles_since
from liveprofile.wire.histories import history_since, purchases_since
from liveprofile.wire.output_records import Refused

PURPOSE = "profiling"
ERASED, NO_CONSENT = "ERASED", "NO_CONSENT"  # reasons to reject an event
MAX_USERS = 100_000  # about 500 bytes each

Sums = tuple[float, ...]


class ProfileBatch(NamedTuple):
    """n rows of `jobs.sql.profile_views.profile_input`; the windows of a user in time order."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray  # (n,) int64
    events: list[str]  # the window's events: liveprofile.wire.window_events
    history: list[str]  # the user's last windows, this one last: liveprofile.wire.histories
    purchases: list[str]  # and the times of purchases
    added: np.ndarray  # (n, len(baselines.COLUMNS)) float64, the window's part of `sums`
    sums: np.ndarray  # (n, len(baselines.COLUMNS)) float64, the user's sums with the window
    attribute_tiles: list[str]  # JSON: liveprofile.wire.attribute_tiles; "": none

    def take(self, rows: Sequence[int]) -> "ProfileBatch":
        """Returns a batch of these rows."""
        if len(rows) == len(self.user_id):
            return self
        return ProfileBatch(
            *(
                column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
                for column in self
            )
        )

    def refuse_all(self, reason: str, detail: str) -> list[Refused]:
        """The events of the first row, with their payloads, as refused ones."""
        return [
            Refused(reason, detail, event.partition, event.offset, event.payload)
            for event in window_events.parse(self.events[0])
        ]


class UsableWindows(NamedTuple):
    """Windows of a batch without the events that are erased or not allowed."""

    batch: ProfileBatch  # the windows with an event that is left
    rows: list[int]  # their rows in the whole batch, ascending
    refused: list[list[Refused]]  # of each row of the whole batch, without payloads


def usable_windows(
    batch: ProfileBatch, consents: ConsentTable, erasures: ErasureTable
) -> UsableWindows:
    """Refuses windows that begin before their user's erasure, and events by their own time that
    their user did not allow.
    """
    rows: list[int] = []
    events: list[str] = []
    refused: list[list[Refused]] = [[] for _ in batch.user_id]
    erased = erased_rows(batch.user_id, batch.window_start_ms.tolist(), erasures)
    for row, (user_id, kept, gone) in enumerate(
        zip(batch.user_id, batch.events, erased, strict=True)
    ):
        # At time 0 a user without changes has the default, which holds at any time.
        if gone or user_id in consents or not consents.allowed(user_id, PURPOSE, 0):
            found = list(window_events.parse(kept))
            usable = [
                not gone and consents.allowed(user_id, PURPOSE, event.time_ms) for event in found
            ]
            kept = window_events.join(compress(found, usable))
            why = (ERASED, "window") if gone else (NO_CONSENT, PURPOSE)
            refused[row] = [
                Refused(*why, event.partition, event.offset, "")
                for event, is_usable in zip(found, usable, strict=True)
                if not is_usable
            ]
        if kept:
            rows.append(row)
            events.append(kept)
    return UsableWindows(batch.take(rows)._replace(events=events), rows, refused)


class SumsKey(NamedTuple):
    """Asks for a user's sums after the last window that ends before this one."""

    user_id: str
    window_end_ms: int


class StoredSums(NamedTuple):
    window_end_ms: int
    sums: Sums  # in the order of liveprofile.features.baselines.COLUMNS


class LaterSumsReader(Protocol):
    """Reads the sums since an erasure."""

    def later_sums(self, keys: Sequence[SumsKey]) -> Sequence[StoredSums | None]:
        """The sums of each key, None if none are stored. Raises StoreError."""


class LaterWindows:
    """The windows of users after their erasure, which start from nothing.

    on_restart: called with a user before the first window after an erasure, again after a restart
    of the worker.
    """

    def __init__(self, store: LaterSumsReader, length_ms: int, on_restart: Callable[[str], None]):
        self._store, self._length_ms, self._on_restart = store, length_ms, on_restart
        self._sums: dict[str, StoredSums] = {}
        self._restarted_ms: dict[str, int] = {}  # erasures that `on_restart` has been called for

    def without_past(
        self, batch: ProfileBatch, table: ErasureTable
    ) -> tuple[ProfileBatch, frozenset[str]]:
        """Takes the past out of a batch that `usable_windows` has passed. Raises StoreError.

        Returns it with the users whose rows are changed.
        """
        user_ids, starts_ms = batch.user_id, batch.window_start_ms.tolist()
        firsts_ms = {
            row: first_window_ms(starts_ms[row], before_ms, self._length_ms)
            for row, user_id in enumerate(user_ids)
            if (before_ms := table.before_ms(user_id)) is not None
        }
        if not firsts_ms:
            return batch, frozenset()
        history, purchases, sums = list(batch.history), list(batch.purchases), batch.sums.copy()
        tiles = list(batch.attribute_tiles)
        self._restart((user_ids[row], first_ms) for row, first_ms in firsts_ms.items())
        self._read_sums(user_ids, starts_ms, firsts_ms)
        for row, first_ms in firsts_ms.items():
            history[row] = history_since(history[row], first_ms)
            purchases[row] = purchases_since(purchases[row], first_ms)
            tiles[row] = tiles_since(tiles[row], first_ms)
            user_id, total = user_ids[row], batch.added[row]
            known = self._sums.get(user_id)
            if known is not None and known.window_end_ms > first_ms:
                total = total + np.array(known.sums)
            sums[row] = total
            end_ms = starts_ms[row] + self._length_ms
            self._sums[user_id] = StoredSums(end_ms, tuple(total.tolist()))
        changed = batch._replace(
            history=history, purchases=purchases, sums=sums, attribute_tiles=tiles
        )
        return changed, frozenset(user_ids[row] for row in firsts_ms)

    def _restart(self, erasures: Iterable[tuple[str, int]]) -> None:
        for user_id, first_ms in erasures:
            if self._restarted_ms.get(user_id) != first_ms:
                if len(self._restarted_ms) >= MAX_USERS:
                    self._restarted_ms.clear()
                self._restarted_ms[user_id] = first_ms
                self._on_restart(user_id)

    def _read_sums(
        self, user_ids: Sequence[str], starts_ms: Sequence[int], firsts_ms: dict[int, int]
    ) -> None:
        """Makes the sums known that the first row of each user goes on from."""
        if len(self._sums) + len(firsts_ms) > MAX_USERS:
            self._sums.clear()
        unknown: dict[str, SumsKey] = {}
        for row in reversed(firsts_ms):
            user_id, end_ms = user_ids[row], starts_ms[row] + self._length_ms
            known = self._sums.get(user_id)
            unknown.pop(user_id, None)
            # A window that is replayed comes before the one whose sums are known.
            if known is None or known.window_end_ms >= end_ms:
                unknown[user_id] = SumsKey(user_id, end_ms)
        if unknown:
            keys = list(unknown.values())
            for key, found in zip(keys, self._store.later_sums(keys), strict=True):
                self._sums.pop(key.user_id, None)
                if found is not None:
                    self._sums[key.user_id] = found
