"""Scores, stores and answers one batch of the profile pipeline. Knows nothing of Flink."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.alerts import alert_records
from liveprofile.attributes.computed import computed_at, computed_columns
from liveprofile.attributes.statements import SEGMENT_PURPOSES
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Modality, Vectors, add_text_vectors
from liveprofile.events.window import parse_windows
from liveprofile.features import window_features
from liveprofile.feeds.feed import Current, Fixed
from liveprofile.rules import flag_policy
from liveprofile.rules.conditions import AttributeValue
from liveprofile.segments.membership import MembershipPolicy
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS, SECOND_MS
from liveprofile.wire import output_records, window_events
from liveprofile.wire.histories import read_histories
from liveprofile.wire.output_records import Refused
from liveprofile.wire.tokens import TYPE_INDEX
from udfs.attribute_reads import CachedAttributes
from udfs.cassandra.memberships import rewrite_after_ms
from udfs.privacy import (
    ERASED,
    LaterFlags,
    LaterMemberships,
    LaterWindows,
    usable_windows,
)
from udfs.profile import assemble
from udfs.profile.model_feed import ActiveModels
from udfs.profile.row import ProfileRow, change_records, with_memberships
from udfs.profile.sink import CassandraProfileSink
from udfs.worker import DATA_ERRORS, MAX_CONSECUTIVE_FAILED_ROWS, Feeds

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores
    from models.profile.text_encoder import TextEncoder


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
    computed: list[str]  # tiles of attributes: liveprofile.attributes.computed; "": none

    def take(self, rows: Sequence[int]) -> ProfileBatch:
        """Returns a batch of these rows."""
        if len(rows) == len(self.user_id):
            return self
        return ProfileBatch(
            *(
                column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
                for column in self
            )
        )


class ReadBatch(NamedTuple):
    """A batch without events and windows that cannot be read."""

    inputs: assemble.ProfileInputs
    kept: list[int]  # rows of the batch that `inputs` has
    refused: list[list[Refused]]  # of each row of the batch


def _modalities(model: ProfileModel, encode_texts: TextEncoder | None) -> frozenset[Modality]:
    return model.modalities if encode_texts else model.modalities - {TEXT}


def read_batch(
    batch: ProfileBatch, model: ProfileModel, encode_texts: TextEncoder | None
) -> ReadBatch:
    """Parses what a model reads of a batch."""
    windows, kept, refused = parse_windows(batch.events, _modalities(model, encode_texts))
    times_ms = batch.window_start_ms[kept], batch.window_end_ms[kept]
    before, after = assemble.read_baselines(
        batch.added[kept], batch.sums[kept], *times_ms, model.decay_days
    )
    texts = (batch.user_id, batch.history, batch.purchases, batch.computed)
    users, histories, purchases, computed = ([text[row] for row in kept] for text in texts)
    read = read_histories(histories, purchases, times_ms[0], model.history_windows)
    inputs = assemble.ProfileInputs(users, *times_ms, windows, read, before, after, computed)
    return ReadBatch(inputs, kept, refused)


def score(
    inputs: assemble.ProfileInputs,
    model: ProfileModel,
    encode_texts: TextEncoder | None,
) -> Scores:
    """Calls the model."""
    vectors: Sequence[Vectors] = [window.modalities.vectors for window in inputs.windows.rows]
    if TEXT in _modalities(model, encode_texts):
        texts = [window.text for window in inputs.windows.rows]
        vectors = add_text_vectors(vectors, texts, encode_texts)
    return model.score(
        inputs.histories.tokens,
        inputs.windows.tokens,
        *assemble.numeric_inputs(inputs),
        vectors,
        inputs.histories.memories,
        (inputs.window_end_ms - inputs.window_start_ms) / DAY_MS,
    )


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


class ProfileUpdater:
    """Scores windows, writes the profiles to the sink and returns the records to send.

    on_batch: called with the timing of each batch that succeeds.
    encode_texts: the sentence encoder; None: the model gets no texts.
    models: names those of each batch; None: always `model`.
    """

    def __init__(
        self,
        settings: Settings,
        model: ProfileModel,
        sink: CassandraProfileSink,
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
        self._settings, self._sink = settings, sink
        self._feeds, self._models = feeds, models or Fixed(ActiveModels(model))
        length_ms, erased = settings.window.length_ms, feeds.erasures.current
        self._flag_policy = flag_policy.FlagPolicy(LaterFlags(sink, length_ms, erased))
        self._memberships = MembershipPolicy(
            LaterMemberships(sink, length_ms, erased), rewrite_after_ms(settings.cassandra)
        )
        self._later = LaterWindows(sink, length_ms, self._memberships.forget)
        self._later_users: frozenset[str] = frozenset()  # of the batch in work
        self._attributes = CachedAttributes(sink)
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
        starts_ms = batch.window_start_ms.tolist()
        usable = usable_windows(
            batch.user_id, starts_ms, batch.events, self._feeds.consents.current(), erasures
        )
        sent = [
            # The record of an erased event has no key: that would be the user's id.
            [self._rejected("" if each.reason == ERASED else user_id, each) for each in refused]
            for user_id, refused in zip(batch.user_id, usable.refused, strict=True)
        ]
        if not usable.rows:
            return sent
        batch = batch.take(usable.rows)._replace(events=usable.events)
        batch, self._later_users = self._later.without_past(batch, erasures)
        for model, rows in self._models.current().split(batch.user_id):
            updated = self._update_rows(batch.take(rows), model)
            for row, records in zip(rows, updated, strict=True):
                sent[usable.rows[row]] += records
        return sent

    def _update_rows(self, batch: ProfileBatch, model: ProfileModel) -> list[list[str]]:
        try:
            sent = self._update(batch, model)
        except DATA_ERRORS as error:
            if len(batch.user_id) == 1:
                return [self._reject_row(batch, error)]
            rows = (batch.take([row]) for row in range(len(batch.user_id)))
            return list(chain.from_iterable(self._update_rows(row, model) for row in rows))
        self._failed_rows = 0
        return sent

    def _update(self, batch: ProfileBatch, model: ProfileModel) -> list[list[str]]:
        clock = [time.perf_counter()]
        inputs, kept, refused = read_batch(batch, model, self._encode_texts)
        sent = [
            [self._rejected(user_id, event) for event in events]
            for user_id, events in zip(batch.user_id, refused, strict=True)
        ]
        clock.append(time.perf_counter())
        if not kept:
            return sent
        scores = score(inputs, model, self._encode_texts)
        clock.append(time.perf_counter())
        profiles = self._with_later_sums(self._assemble(inputs, scores, model), batch.sums[kept])
        clock.append(time.perf_counter())
        self._sink.write(profiles)
        snoozed = self._sink.snoozed(profile.user_id for profile in profiles if profile.flags)
        self._sink.flush()
        self._memberships.stored()
        clock.append(time.perf_counter())
        # The watermark passes the end of a window `out_of_orderness_ms` after it, if events arrive.
        close_ms = inputs.window_end_ms + self._settings.window.out_of_orderness_ms
        waited_ms = time.time() * SECOND_MS - close_ms
        topics, source = self._settings.topics, self._settings.job.event_source
        for row, profile in zip(kept, profiles, strict=True):
            if profile.flags:
                snoozes = snoozed[profile.user_id]
                sent[row] += alert_records(topics.alerts, profile, snoozes, source)
            if profile.memberships:
                sent[row] += change_records(topics.segment_changes, profile.memberships, source)
        spent_ms = np.diff(clock) * 1000.0
        media = [window.modalities for window in inputs.windows.rows]
        self._on_batch(
            ProfileBatchTiming(
                len(kept),
                *spent_ms.tolist(),
                media_used=sum(len(one.vectors.keys() - {PLACE}) for one in media if one.vectors),
                media_ignored=sum(one.ignored for one in media),
                window_to_profile_ms=waited_ms.tolist(),
            )
        )
        return sent

    def _with_later_sums(self, profiles: list[ProfileRow], sums: np.ndarray) -> list[ProfileRow]:
        if not self._later_users:
            return profiles
        return [
            row._replace(later_sums=tuple(sums[index].tolist()))
            if row.user_id in self._later_users
            else row
            for index, row in enumerate(profiles)
        ]

    def _assemble(
        self, inputs: assemble.ProfileInputs, scores: Scores, model: ProfileModel
    ) -> list[ProfileRow]:
        before, after = assemble.features_before_and_after(inputs, scores)
        rules = self._feeds.rules.current()
        columns = window_features.window_features(
            before,
            {
                "events": inputs.windows.tokens.sizes,
                "purchases": inputs.windows.counts[:, TYPE_INDEX["purchase"]],
                "amount": inputs.windows.amount,
                "surprise": scores.surprise,
            },
        )
        ends_ms = inputs.window_end_ms.tolist()
        segments, names = self._feeds.segments.current(), rules.attributes("window")
        computed = computed_at(inputs.computed, ends_ms) if names or segments.attributes else []
        stated = self._attributes.rule_columns(
            [name for name in names if not computed or name not in computed[0]],
            inputs.user_id,
            ends_ms,
        )
        stated |= computed_columns(computed, names)
        findings = flag_policy.evaluate_rules(
            rules.evaluated("window"), columns | stated, len(inputs.user_id)
        )
        consents = self._feeds.consents.current()
        # Without `risk` no rule is true: a rule that still is raises a flag after a new grant.
        findings = [
            found if is_allowed else []
            for found, is_allowed in zip(
                findings, consents.allowed_rows(inputs.user_id, "risk", ends_ms), strict=True
            )
        ]
        evaluations = map(flag_policy.RuleEvaluation, inputs.user_id, ends_ms, findings)
        flags = self._flag_policy.raise_flags(list(evaluations), rules.version)
        attributes: Sequence[Mapping[str, AttributeValue | None]] = computed
        if computed and segments.attributes - computed[0].keys():
            found = self._attributes.values(inputs.user_id, ends_ms, SEGMENT_PURPOSES)
            attributes = [one | more for one, more in zip(found, computed, strict=True)]
        rows, evaluation = assemble.assemble(
            inputs,
            scores,
            model,
            before,
            after,
            findings,
            flags,
            segments,
            attributes,
            consents.allowed_rows(inputs.user_id, "recommendation", ends_ms),
            self._settings,
        )
        knows_user = after["windows"] > assemble.NEW_USER_WINDOWS
        return with_memberships(rows, evaluation, self._memberships, consents, knows_user)

    def _rejected(self, user_id: str, event: Refused) -> str:
        topics = self._settings.topics
        return output_records.rejected(topics.rejected, topics.events, user_id, event)

    def _reject_row(self, row: ProfileBatch, error: Exception) -> list[str]:
        self._failed_rows += 1
        if self._failed_rows > MAX_CONSECUTIVE_FAILED_ROWS:
            raise error
        detail = f"{type(error).__name__}: {error}"[:200]
        return [
            self._rejected(
                row.user_id[0],
                Refused("SCORING_FAILED", detail, event.partition, event.offset, event.payload),
            )
            for event in window_events.parse(row.events[0])
        ]
