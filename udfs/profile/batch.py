"""The operator's work without the operator: a batch of rows in, everything stored, messages out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.config import Settings
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Vectors, with_texts
from liveprofile.events.window import Windows, read_windows
from liveprofile.features import window as window_features
from liveprofile.rules import flag_policy
from liveprofile.wire import output_records
from liveprofile.wire.output_records import Refused
from liveprofile.wire.token_columns import read_histories
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX
from udfs.profile import assemble
from udfs.profile.profile_row import ProfileRow
from udfs.profile.sink import ProfileSink
from udfs.rules_feed import RulesFeed

if TYPE_CHECKING:  # torch is for the workers, not for the client that submits
    from models.profile.inference import BatchTime, ProfileModel, Scores
    from models.profile.text_encoder import Encode

# What a row of odd data raises. Anything else (no memory, a lost card) is no row's fault.
DATA_ERRORS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError)

# One after the other. Odd data comes mixed with good; where nothing succeeds any more, the fault is
# ours, and it is better to stop than to reject everything.
MOST_FAILED_ROWS = 100


class Batch(NamedTuple):
    """n rows of `jobs.sql.profile_views.remembered`; a user's windows in time order."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray
    events: list[str]
    history: list[str]
    added: np.ndarray  # (n, len(baselines.COLUMNS)) float64
    sums: np.ndarray

    def row(self, index: int) -> Batch:
        one = slice(index, index + 1)
        return Batch(*(column[one] for column in self))


STAGES = ("read", "model", "assemble", "store")


class Timing(NamedTuple):
    """Of one batch, in milliseconds."""

    rows: int
    read_ms: float
    model_ms: float
    assemble_ms: float
    store_ms: float
    passes: list[BatchTime]
    media_used: int  # vectors, at most one an encoder and window
    media_ignored: int  # events whose vector the model can't read


class ProfileUpdater:
    """Scores rows, stores what comes of them, and says what to send after that.

    on_batch is called once for each batch that went through. encode_texts: where the model is told
    of texts; None: it isn't.
    """

    def __init__(
        self,
        settings: Settings,
        model: ProfileModel,
        store: ProfileSink,
        rules: RulesFeed,
        on_batch: Callable[[Timing], None] = lambda timing: None,
        encode_texts: Encode | None = None,
    ):
        if model.decay_days != settings.state.decay_days:
            raise InputError(
                f"state.decay_days = {settings.state.decay_days:g}, but model {model.version} was"
                f" trained with {model.decay_days:g}; set it so, or train a model for yours"
            )
        self._settings, self._model, self._store = settings, model, store
        self._rules, self._raiser = rules, flag_policy.FlagPolicy(store)
        self._on_batch, self._encode_texts = on_batch, encode_texts
        self._known = model.modalities if encode_texts else model.modalities - {TEXT}
        self._failed_rows = 0  # since the last that succeeded

    def update(self, batch: Batch) -> list[list[str]]:
        """The messages of each row. When it returns, every row of the batch is stored.

        A row that the model can't take has its events rejected (SCORING_FAILED) while the others
        go on. Raises StoreError when writing kept failing; whatever else it raises fails the task
        too, and the rows are replayed.
        """
        try:
            sent = self._update(batch)
        except DATA_ERRORS as error:
            if len(batch.user_id) == 1:
                return [self._reject_row(batch, error)]
            rows = map(batch.row, range(len(batch.user_id)))
            return list(chain.from_iterable(map(self.update, rows)))
        self._failed_rows = 0
        return sent

    def _update(self, batch: Batch) -> list[list[str]]:
        clock = [time.perf_counter()]
        windows, kept, refused = read_windows(batch.events, self._known)
        sent = [
            [self._rejected(user_id, event) for event in events]
            for user_id, events in zip(batch.user_id, refused, strict=True)
        ]
        rows = self._read(batch, windows, kept)
        clock.append(time.perf_counter())
        if not kept:
            return sent
        scores = self._model.score(
            rows.histories.tokens,
            rows.windows.tokens,
            *assemble.numbers(rows),
            self._vectors(windows),
        )
        clock.append(time.perf_counter())
        stored = self._assemble(rows, scores)
        clock.append(time.perf_counter())
        self._store.begin(stored)
        snoozed = self._store.snoozed(row.user_id for row in stored if row.flags)
        self._store.wait()
        clock.append(time.perf_counter())
        for index, row in zip(kept, stored, strict=True):
            if row.flags:
                alerts = self._settings.topics.alerts
                sent[index] += alerts(alerts, row, snoozed[row.user_id])
        spent = np.diff(clock) * 1000.0
        beside = [window.beside for window in windows.rows]
        media_used = sum(len(one.vectors.keys() - {PLACE}) for one in beside if one.vectors)
        media_ignored = sum(one.ignored for one in beside)
        self._on_batch(
            Timing(len(kept), *spent.tolist(), scores.batches, media_used, media_ignored)
        )
        return sent

    def _read(self, batch: Batch, windows: Windows, kept: list[int]) -> assemble.Inputs:
        before, after = assemble.read_baselines(
            batch.added[kept],
            batch.sums[kept],
            batch.window_start_ms[kept],
            batch.window_end_ms[kept],
            self._settings.state.decay_days,
        )
        return assemble.Inputs(
            [batch.user_id[i] for i in kept],
            batch.window_start_ms[kept],
            batch.window_end_ms[kept],
            windows,
            read_histories([batch.history[i] for i in kept]),
            before,
            after,
        )

    def _vectors(self, windows: Windows) -> Sequence[Vectors]:
        vectors = [window.beside.vectors for window in windows.rows]
        if TEXT not in self._known:
            return vectors
        return with_texts(vectors, [window.text for window in windows.rows], self._encode_texts)

    def _assemble(self, rows: assemble.Inputs, scores: Scores) -> list[ProfileRow]:
        before, after = assemble.sides(rows, scores)
        rules = self._rules.current()
        columns = window_features.compute(
            {name: before.column(name) for name in assemble.FEATURES},
            {
                "events": rows.windows.tokens.sizes,
                "purchases": rows.windows.counts[:, TYPE_INDEX["purchase"]],
                "amount": rows.windows.amount,
                "surprise": scores.surprise,
            },
        )
        found = flag_policy.evaluate(rules.of("window"), columns, len(rows.user_id))
        judged = map(flag_policy.RuleEvaluation, rows.user_id, rows.window_end_ms.tolist(), found)
        flags = self._raiser.raise_flags(list(judged), rules.version)
        return assemble.assemble(
            rows,
            scores,
            self._model,
            before,
            after,
            found,
            flags,
            self._settings,
        )

    def _rejected(self, user_id: str, event: Refused) -> str:
        topics = self._settings.topics
        return output_records.rejected(topics.rejected, topics.events, user_id, event)

    def _reject_row(self, row: Batch, error: Exception) -> list[str]:
        self._failed_rows += 1
        if self._failed_rows > MOST_FAILED_ROWS:
            raise error
        detail = f"{type(error).__name__}: {error}"[:200]
        refused = []
        for packed in row.events[0].split(EVENT):
            _, partition, offset, payload = packed.split(FIELD, 3)
            refused.append(Refused("SCORING_FAILED", detail, partition, offset, payload))
        return [self._rejected(row.user_id[0], event) for event in refused]
