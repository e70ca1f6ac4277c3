"""The five steps of a batch of the profile pipeline. Knows nothing of Flink.

Allow (batch.py), read (inputs.py), score (models/profile/inference.py), decide (decide.py), and
write (rows.py, writer.py) what is then answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.alerts import alert_records
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE
from liveprofile.feeds.feed import Current, Fixed
from liveprofile.segments.membership import change_records
from liveprofile.settings import Settings
from liveprofile.units import SECOND_MS
from liveprofile.wire import output_records
from liveprofile.wire.output_records import Refused
from udfs.profile.batch import ERASED, LaterWindows, ProfileBatch, usable_windows
from udfs.profile.decide import Decider
from udfs.profile.inputs import ProfileInputs, read_inputs, score
from udfs.profile.model_feed import ActiveModels
from udfs.profile.rows import build_rows
from udfs.profile.store import ProfileStore
from udfs.worker import DATA_ERRORS, MAX_CONSECUTIVE_FAILED_ROWS, Feeds

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel
    from models.profile.text_encoder import TextEncoder


STAGES = ("read", "model", "assemble", "store")


class ProfileBatchTiming(NamedTuple):
    """Size of one batch and milliseconds spent in each of STAGES."""

    rows: int
    read_ms: float
    model_ms: float
    assemble_ms: float
    store_ms: float
    media_used: int  # vectors that the model read, at most one per encoder and window
    media_ignored: int  # events with a vector that the model cannot read
    window_to_profile_ms: Sequence[float] = ()  # from each window's close until it was stored


class Answer(NamedTuple):
    """What is sent for a row."""

    refused: list[Refused]  # events
    records: list[str]  # alerts and changes of segments


class ProfileUpdater:
    """Scores windows, stores the profiles and returns the records to send.

    on_batch: called with the timing of each batch that succeeds.
    encode_texts: the sentence encoder; None: the model gets no texts.
    models: names those of each batch; None: always `model`.
    """

    def __init__(
        self,
        settings: Settings,
        model: ProfileModel,
        store: ProfileStore,
        feeds: Feeds,
        on_batch: Callable[[ProfileBatchTiming], None] = lambda timing: None,
        encode_texts: TextEncoder | None = None,
        models: Current[ActiveModels] | None = None,
    ):
        """Raises InputError if the model was trained with another `state.decay_days`."""
        if model.decay_days != settings.state.decay_days:
            raise InputError(
                f"state.decay_days = {settings.state.decay_days:g}, but model {model.version} was"
                f" trained with {model.decay_days:g}: set state.decay_days = {model.decay_days:g}"
                " or train a model with your value"
            )
        self._settings, self._feeds = settings, feeds
        self._models = models or Fixed(ActiveModels(model))
        self._users, self._writer = store.users, store.writer
        self._decider = Decider(settings, store.users, feeds)
        self._later = LaterWindows(
            store.users, settings.window.length_ms, self._decider.memberships.forget
        )
        self._on_batch, self._encode_texts = on_batch, encode_texts
        self._failed_rows = 0  # since the last successful batch

    def update(self, batch: ProfileBatch) -> list[list[str]]:
        """Returns the output records of each row, after every row is stored.

        Windows from before an erasure of their user are rejected with reason ERASED, events whose
        users did not allow profiles with reason NO_CONSENT. They reach neither the model nor a
        table.

        If the batch raises one of DATA_ERRORS, its rows are processed one by one, and the events of
        each failing row are rejected with reason SCORING_FAILED. Raises the error after
        MAX_CONSECUTIVE_FAILED_ROWS such rows, and StoreError if a write keeps failing. Any
        exception fails the task, and Flink replays the rows from its checkpoint.
        """
        erasures = self._feeds.erasures.current()
        usable = usable_windows(batch, self._feeds.consents.current(), erasures)
        allowed, later_users = self._later.without_past(usable.batch, erasures)
        refused, sent = usable.refused, [[] for _ in batch.user_id]
        for model, rows in self._models.current().split(allowed.user_id):
            answers = self._update_rows(allowed.take(rows), model, later_users)
            for row, answer in zip(rows, answers, strict=True):
                refused[usable.rows[row]] += answer.refused
                sent[usable.rows[row]] += answer.records
        topics = self._settings.topics
        return [
            [
                # The record of an erased event has no key: that would be the user's id.
                output_records.rejected(
                    topics.rejected, topics.events, "" if each.reason == ERASED else user_id, each
                )
                for each in of_row
            ]
            + records
            for user_id, of_row, records in zip(batch.user_id, refused, sent, strict=True)
        ]

    def _update_rows(
        self, batch: ProfileBatch, model: ProfileModel, later_users: frozenset[str]
    ) -> list[Answer]:
        """Updates the rows of one model, each alone if the data of one of them is malformed."""
        try:
            answers = self._update(batch, model, later_users)
        except DATA_ERRORS as error:
            if len(batch.user_id) == 1:
                return [Answer(self._refuse_row(batch, error), [])]
            rows = (batch.take([row]) for row in range(len(batch.user_id)))
            return [answer for row in rows for answer in self._update_rows(row, model, later_users)]
        self._failed_rows = 0
        return answers

    def _update(
        self, batch: ProfileBatch, model: ProfileModel, later_users: frozenset[str]
    ) -> list[Answer]:
        """Steps 2 to 5: read, score, decide, write and answer."""
        clock = [time.perf_counter()]
        texts = self._encode_texts is not None
        inputs = read_inputs(batch, model, texts=texts, later_users=later_users)
        answers = [Answer(refused, []) for refused in inputs.refused]
        clock.append(time.perf_counter())
        if not inputs.rows:
            return answers

        scores = score(inputs, model, self._encode_texts)
        clock.append(time.perf_counter())

        decisions = self._decider.decide_windows(inputs, scores, model)
        profiles = build_rows(inputs, scores, decisions, model)
        clock.append(time.perf_counter())

        self._writer.write(profiles)
        snoozed = self._users.snoozed(row.user_id for row in profiles if row.flags)
        self._writer.flush()
        self._decider.memberships.stored()
        clock.append(time.perf_counter())
        self._on_batch(_timing(inputs, clock, self._settings.window.out_of_orderness_ms))

        topics, source = self._settings.topics, self._settings.job.event_source
        for row, profile in zip(inputs.rows, profiles, strict=True):
            records = answers[row].records
            if profile.flags:
                snoozes = snoozed[profile.user_id]
                records += alert_records(topics.alerts, profile, snoozes, source)
            if profile.memberships:
                records += change_records(topics.segment_changes, profile.memberships, source)
        return answers

    def _refuse_row(self, row: ProfileBatch, error: Exception) -> list[Refused]:
        self._failed_rows += 1
        if self._failed_rows > MAX_CONSECUTIVE_FAILED_ROWS:
            raise error
        return row.refuse_all("SCORING_FAILED", f"{type(error).__name__}: {error}"[:200])


def _timing(
    inputs: ProfileInputs, clock: Sequence[float], out_of_orderness_ms: int
) -> ProfileBatchTiming:
    # The watermark passes the end of a window `out_of_orderness_ms` after it, if events arrive.
    close_ms = inputs.window_end_ms + out_of_orderness_ms
    waited_ms = time.time() * SECOND_MS - close_ms
    read_ms, model_ms, assemble_ms, store_ms = (np.diff(clock) * 1000.0).tolist()
    media = [window.modalities for window in inputs.windows.rows]
    return ProfileBatchTiming(
        len(inputs.rows),
        read_ms,
        model_ms,
        assemble_ms,
        store_ms,
        media_used=sum(len(one.vectors.keys() - {PLACE}) for one in media if one.vectors),
        media_ignored=sum(one.ignored for one in media),
        window_to_profile_ms=waited_ms.tolist(),
    )
