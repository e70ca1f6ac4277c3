"""Corrects the profiles of users with late events, from rows of `jobs.backfill_job`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from liveprofile.feeds.feed import Current, Fixed
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.segments import read_segments
from liveprofile.settings import Settings
from liveprofile.units import SECOND_MS
from liveprofile.wire import window_events
from offline.late_windows.chains import (
    MERGED,
    REASON,
    WITHDRAWN,
    Correction,
    Plan,
    RecomputedStore,
    StoredUser,
    corrections_of,
    is_complete,
    is_complete_profile,
    plan,
    read_chain,
    reopened_ms,
    to_batch,
)
from offline.late_windows.late_events import END_OF_TIME_MS, LateTable, MovedEvents
from offline.late_windows.tables import CassandraCorrectionTables
from udfs.profile.model_feed import ActiveModels, load_checkpoint, open_model_feed
from udfs.profile.udf import open_text_encoder
from udfs.profile.update import ProfileUpdater
from udfs.worker import Feeds, follow_feeds

if TYPE_CHECKING:
    from models.profile.inference import ProfileModel
    from models.profile.text_encoder import TextEncoder

BATCH_WINDOWS = 256


@dataclass
class CorrectionCounts:
    """What a run has done; `liveprofile events recompute-late` prints it."""

    late_events: int = 0  # in the chains of users whose history is complete
    users: int = 0  # with corrected windows
    windows: int = 0  # corrected, or stored for the first time
    flags_added: int = 0
    flags_withdrawn: int = 0
    merged: int = 0  # users whose windows have become those of another one
    incomplete: int = 0  # users whose earlier events are not all there
    erased_meanwhile: int = 0  # users


class Corrector:
    """Recomputes and stores the windows that late events change.

    is_erased: asked before a user's rows are stored. For the rest see ProfileUpdater.
    """

    def __init__(
        self,
        settings: Settings,
        tables: CassandraCorrectionTables,
        model: ProfileModel,
        feeds: Feeds,
        encode_texts: TextEncoder | None = None,
        models: Current[ActiveModels] | None = None,
        is_erased: Callable[[str], bool] = lambda user_id: False,
        now_ms: Callable[[], float] = lambda: time.time() * SECOND_MS,
    ):
        self._tables, self._rules, self._window = tables, feeds.rules, settings.window
        self._is_erased, self._now_ms = is_erased, now_ms
        self._recomputed = RecomputedStore(tables.users)
        self._updater = ProfileUpdater(
            settings,
            model,
            self._recomputed,
            # Users who were erased at any time are not corrected at all.
            feeds._replace(erasures=Fixed(ErasureTable())),
            encode_texts=encode_texts,
            models=models,
        )

    def correct(
        self, rows: Iterable[Mapping[str, Any]], table: LateTable, closed_ms: int
    ) -> CorrectionCounts:
        """Corrects the closed windows of the users of `table`.

        rows: of liveprofile.wire.training_rows.PROFILE_INPUT, the windows of a user one after the
        other. closed_ms: the watermark of what the job has stored. Raises StoreError, ServiceError.
        """
        counts = CorrectionCounts()
        for users in _in_parts(self._plans(rows, table, closed_ms, counts)):
            self._store(users, table, closed_ms, counts)
        return counts

    def _plans(
        self,
        rows: Iterable[Mapping[str, Any]],
        table: LateTable,
        closed_ms: int,
        counts: CorrectionCounts,
    ) -> Iterator[tuple[str, StoredUser, Plan]]:
        checked: set[str] = set()
        for user_id, of_user in itertools.groupby(rows, itemgetter("user_id")):
            moved, windows = table.moved.get(user_id, {}), list(of_user)
            chain = read_chain(windows, table.used.get(user_id, ()))
            since_ms = reopened_ms(chain)
            if since_ms is None:
                continue
            checked.add(user_id)
            stored = self._tables.stored(user_id, since_ms)
            arrived = _moved_times_ms(moved, windows) if moved else {}
            profiles = self._profiles(arrived)
            if not is_complete(chain, stored, closed_ms) or not all(
                is_complete_profile(arrived[other], profile, closed_ms)
                for other, profile in profiles.items()
            ):
                counts.incomplete += 1
                continue
            # Those that an alias's consents forbid are not in the chain.
            in_chain = sum(map(len, arrived.values())) - sum(
                len(each.not_allowed_ms) for each in moved.values()
            )
            counts.late_events += chain[-1].revision - in_chain
            found = plan(chain, stored, closed_ms)._replace(merged=frozenset(profiles))
            if found.changed:
                yield user_id, stored, found
            else:  # a run that was killed has stored all
                self._remove(profiles, closed_ms, counts)
        # Of these aliases no event is left in the topic.
        for user_id, moved in table.moved.items():
            counts.incomplete += user_id not in checked and bool(self._profiles(moved))

    def _profiles(self, user_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """The profiles of those users who have one (see StoredUser)."""
        found = {each: self._tables.stored(each, END_OF_TIME_MS).profile for each in user_ids}
        return {each: profile for each, profile in found.items() if profile is not None}

    def _remove(self, users: Iterable[str], closed_ms: int, counts: CorrectionCounts) -> None:
        # With staggered windows, events of a closed window may be in an open one of the person.
        until_ms = closed_ms + 1 - (self._window.length_ms if self._window.stagger_ms else 0)
        for user_id in users:
            counts.merged += self._tables.remove_windows(user_id, until_ms, self._window) > 0

    def _store(
        self,
        users: Sequence[tuple[str, StoredUser, Plan]],
        table: LateTable,
        closed_ms: int,
        counts: CorrectionCounts,
    ) -> None:
        known = {user_id: (stored, found) for user_id, stored, found in users}
        self._recomputed.begin(known)
        rules = self._rules.current()
        inputs = [window.row for _, found in known.values() for window in found.recomputed]
        for start in range(0, len(inputs), BATCH_WINDOWS):
            self._updater.update(to_batch(inputs[start : start + BATCH_WINDOWS]))
        now_ms = round(self._now_ms())
        corrections: list[Correction] = []
        merged: set[str] = set()
        for user_id, of_user in itertools.groupby(
            sorted(self._recomputed.rows, key=lambda row: (row.user_id, row.window_end_ms)),
            key=lambda row: row.user_id,
        ):
            if self._is_erased(user_id):
                counts.erased_meanwhile += 1
                continue
            reason = MERGED if user_id in table.moved else REASON
            of_user_corrections = corrections_of(of_user, *known[user_id], rules, now_ms, reason)
            counts.users += bool(of_user_corrections)
            corrections += of_user_corrections
            merged |= known[user_id][1].merged
        self._tables.correct(corrections)
        self._remove(sorted(merged), closed_ms, counts)
        for correction in corrections:
            counts.windows += 1
            counts.flags_added += len(correction.row.flags)
            counts.flags_withdrawn += list(correction.marks.values()).count(WITHDRAWN)


def _moved_times_ms(
    moved: Mapping[str, MovedEvents], windows: Iterable[Mapping[str, Any]]
) -> dict[str, list[int]]:
    """By user whose profile becomes part of a chain, the times of the events that are known."""
    times_ms = {
        (int(event.partition), int(event.offset)): event.time_ms
        for window in windows
        for event in window_events.parse(window["events"])
    }
    return {
        user_id: [times_ms[each] for each in events.used if each in times_ms]
        + events.not_allowed_ms
        for user_id, events in moved.items()
    }


def _in_parts(
    users: Iterable[tuple[str, StoredUser, Plan]],
) -> Iterator[list[tuple[str, StoredUser, Plan]]]:
    """Parts of about BATCH_WINDOWS windows, with all windows of a user in one part."""
    part, windows = [], 0
    for user in users:
        part.append(user)
        windows += len(user[2].recomputed)
        if windows >= BATCH_WINDOWS:
            yield part
            part, windows = [], 0
    if part:
        yield part


@contextmanager
def open_corrector(settings: Settings, is_erased: Callable[[str], bool]) -> Iterator[Corrector]:
    """A corrector with the model, rules, segments and consents that are in force in the job.

    Raises LiveprofileError.
    """
    model = load_checkpoint(settings, product_path(settings.model.checkpoint))
    encoder = open_text_encoder(settings)
    with ExitStack() as opened:
        tables = opened.enter_context(
            closing(CassandraCorrectionTables(settings.cassandra, model.dim))
        )
        feeds = follow_feeds(
            settings,
            read_rules(product_path(settings.rules)),
            read_segments(product_path(settings.segments)),
        )
        opened.callback(feeds.close)
        models = opened.enter_context(closing(open_model_feed(settings, model)))
        yield Corrector(settings, tables, model, feeds, encoder, models, is_erased)
