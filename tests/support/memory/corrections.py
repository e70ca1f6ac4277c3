"""The tables of corrections in memory, over those of MemoryProfileSink."""

from collections.abc import Sequence

from liveprofile.rules.flags import Flag
from liveprofile.settings import WindowSettings
from offline.late_windows.chains import (
    ADDED,
    FIRST_REVISION,
    WITHDRAWN,
    Correction,
    StoredRuleFlag,
    StoredUser,
    StoredWindow,
)
from tests.support.memory.sinks import MemoryProfileSink
from udfs.profile.rows import ProfileRow


class KilledError(Exception):
    """The run ends between two writes."""


def revision_of(row: ProfileRow) -> int:
    return max(0, row.revision - FIRST_REVISION)


class MemoryCorrectionTables:
    """Implements CorrectionTables. writes_left: KilledError after so many; None: never."""

    def __init__(self, sink: MemoryProfileSink, writes_left: int | None = None):
        self.sink, self.writes_left = sink, writes_left
        self.marks: dict[tuple[str, int, str], str] = {}
        self.users = sink

    def stored(self, user_id: str, since_ms: int) -> StoredUser:
        windows = {
            end_ms: StoredWindow(
                end_ms, revision_of(row), row.events_total, frozenset(row.active_rules)
            )
            for (user, end_ms), row in self.sink.deltas.items()
            if user == user_id and end_ms >= since_ms
        }
        flags = [
            StoredRuleFlag(
                rule_id, end_ms, flag.rule_version, self.marks.get((user, end_ms, rule_id), "")
            )
            for (user, end_ms, rule_id, event_id), flag in self.sink.flags.items()
            if user == user_id and not event_id
        ]
        profile = self.sink.profiles.get(user_id)
        return StoredUser(windows, flags, profile and (profile.window_end_ms, profile.events_total))

    def correct(self, corrections: Sequence[Correction]) -> None:
        # Deltas are not stored in order: the last ones first.
        for correction in reversed(corrections):
            row = correction.row
            for rule_id, mark in correction.marks.items():
                self._write()
                self.marks[row.user_id, row.window_end_ms, rule_id] = mark
            self._write()
            self.sink.write([row])
            for flag in row.flags:
                self.marks[row.user_id, row.window_end_ms, flag.rule_id] = ADDED

    def remove_windows(self, user_id: str, until_ms: int, window: WindowSettings) -> int:
        keys = [key for key in self.sink.deltas if key[0] == user_id and key[1] <= until_ms]
        for key in keys:
            self._write()
            del self.sink.deltas[key]
        profile = self.sink.profiles.get(user_id)
        if profile is not None and profile.window_end_ms <= until_ms:
            self._write()
            del self.sink.profiles[user_id]
        return len(keys)

    def _write(self) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                raise KilledError
            self.writes_left -= 1

    def flags_in_force(self) -> dict[tuple[str, int, str], Flag]:
        """All flags but those that were withdrawn, by user, window end and rule."""
        return {
            (user, end_ms, rule_id): flag
            for (user, end_ms, rule_id, _), flag in self.sink.flags.items()
            if self.marks.get((user, end_ms, rule_id)) != WITHDRAWN
        }
