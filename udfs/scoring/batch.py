"""Scores, stores and answers one batch of the scoring pipeline. Knows nothing of Flink.

Shapes: n rows of a batch, F columns of the fraud model's feature matrix.
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from liveprofile.alerts import alert_records
from liveprofile.features.entity import COLUMN_OF, EventBatch, EventLists, parse_lists
from liveprofile.privacy.erasures import erased_rows
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rules import flag_policy
from liveprofile.rules.rules import SCORE_FEATURE
from liveprofile.settings import Settings
from liveprofile.units import SECOND_MS
from liveprofile.wire import output_records
from liveprofile.wire.scored_events import read_rows
from models.fraud.model import FraudModel
from models.fraud.reasons import explain
from udfs.attribute_reads import CachedAttributes
from udfs.privacy import LaterFlags, later_lists
from udfs.scoring.drift_monitor import DriftMonitor
from udfs.scoring.store import CassandraScoringStore, ScoredEvent
from udfs.worker import DATA_ERRORS, MAX_CONSECUTIVE_FAILED_ROWS, Feeds

DRIFT_AFTER_DAYS = 30.0  # of events before the first drift alert

log = logging.getLogger(__name__)

STAGES = ("read", "score", "rules", "store")


class ScoringBatchTiming(NamedTuple):
    """Row counts of one batch and milliseconds spent in each of STAGES."""

    rows: int  # without duplicates
    duplicates: int
    unscored: int  # of `rows`: could not be parsed or scored
    read_ms: float
    score_ms: float
    rules_ms: float
    store_ms: float
    # From the arrival of events in Kafka, without events of unknown arrival:
    event_to_score_ms: Sequence[float] = ()  # until the score was stored
    event_to_alert_ms: Sequence[float] = ()  # until the alert was handed to Flink's sink


class _RuleColumns(dict[Any, np.ndarray]):
    """(n,) columns by name; a feature is taken out of all EVENT_FEATURES when a rule reads it."""

    def __init__(self, features_nE: np.ndarray):
        super().__init__()
        self._features_nE = features_nE

    def __missing__(self, name: str) -> np.ndarray:
        return self._features_nE[:, COLUMN_OF[name]]


class EventScorer:
    """Scores events, stores the scores and returns the records to send.

    on_batch: called with the timing of each batch. now_ms: the wall clock.
    """

    def __init__(
        self,
        settings: Settings,
        model: FraudModel,
        store: CassandraScoringStore,
        feeds: Feeds,
        on_batch: Callable[[ScoringBatchTiming], None] = lambda timing: None,
        now_ms: Callable[[], float] = lambda: time.time() * SECOND_MS,
    ):
        self._settings, self._model, self._store, self._feeds = settings, model, store, feeds
        self._flag_policy = flag_policy.FlagPolicy(
            LaterFlags(store.users, 0, feeds.erasures.current)
        )
        self._attributes = CachedAttributes(store.users)
        self._monitor = self._drift_monitor()
        self._on_batch, self._now_ms = on_batch, now_ms
        self._failed_rows = 0  # since the last successful batch

    def _drift_monitor(self) -> DriftMonitor | None:
        reference, version = self._model.reference, self._model.version
        if reference is None:
            log.info("drift monitoring is off: model %s has no reference.json", version)
            return None
        return DriftMonitor(
            reference,
            version,
            self._model.names,
            self._store.drift_store,
            DRIFT_AFTER_DAYS,
            event_source=self._settings.job.event_source,
        )

    def close(self) -> None:
        if self._monitor is not None:
            self._monitor.close()

    def score(self, user_id: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
        """Returns the output records of each row, after every event is stored.

        user_id, parts: the columns of `jobs.sql.scoring_views.scoring_input`. A duplicate event
        gets no record, nor does one from before an erasure of its user, or one whose user did not
        allow `risk` at its time: both are not scored.

        If the batch raises one of DATA_ERRORS, its rows are processed one by one, and each failing
        row is logged and skipped: the profile pipeline accounts for its event. Raises the error
        after MAX_CONSECUTIVE_FAILED_ROWS such rows, and StoreError if a write keeps failing. Any
        exception fails the task, and Flink replays the rows from its checkpoint.
        """
        try:
            sent = self._score(user_id, parts)
        except DATA_ERRORS as error:
            if len(user_id) > 1:
                rows = zip(user_id, parts, strict=True)
                return list(chain.from_iterable(self.score([user], [part]) for user, part in rows))
            self._failed_rows += 1
            if self._failed_rows > MAX_CONSECUTIVE_FAILED_ROWS:
                raise
            # The message of the error may quote the event.
            kind = type(error).__name__
            log.warning("an event of user %s is not scored: %s", user_pseudonym(user_id[0]), kind)
            self._on_batch(ScoringBatchTiming(1, 0, 1, 0.0, 0.0, 0.0, 0.0))
            return [[]]
        self._failed_rows = 0
        return sent

    def _score(self, user_id: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
        clock = [time.perf_counter()]
        batch, table = read_rows(user_id, parts), self._feeds.erasures.current()
        times_ms = batch.event_ms.tolist()
        erased = erased_rows(batch.user_id, times_ms, table)
        allowed = self._feeds.consents.current().allowed_rows(batch.user_id, "risk", times_ms)
        sent: list[list[str]] = [[] for _ in user_id]
        rows = [row for row, ok in enumerate(allowed) if ok and not erased[row]]
        if not rows:
            return sent
        if len(rows) < len(sent):
            batch = batch.take(rows)
        lists = later_lists(parse_lists(batch), batch.user_id, table)
        clock.append(time.perf_counter())
        features_nE = self._model.features(lists)
        x_nF = self._model.matrix(features_nE)
        score_n = self._model.score(x_nF)
        clock.append(time.perf_counter())
        # Rules look back, so events are evaluated in the order of the topic, which does not depend
        # on the batch. Duplicates were evaluated before.
        order = np.argsort(batch.record_offset, kind="stable")
        kept = order[~lists.duplicates()[order]].tolist()
        columns = _RuleColumns(features_nE)
        columns |= {SCORE_FEATURE: score_n, "event_type": np.array(batch.event_type)}
        scored = self._evaluate_rules(batch, columns, kept)
        scored = self._explain(scored, lists, x_nF, kept)
        clock.append(time.perf_counter())
        self._store.writer.write(scored)
        snoozed = self._store.users.snoozed(event.user_id for event in scored if event.flags)
        self._store.writer.flush()
        clock.append(time.perf_counter())
        waited_ms = self._now_ms() - batch.arrived_ms
        topic, source = self._settings.topics.alerts, self._settings.job.event_source
        for row, event in zip(kept, scored, strict=True):
            if event.flags:
                sent[rows[row]] = alert_records(topic, event, snoozed[event.user_id], source)
        alerted = {row for row in kept if sent[rows[row]]}
        if self._monitor is not None and kept:
            alerts = self._monitor.observe(x_nF, score_n, batch.event_ms, batch.user_id, kept)
            sent[rows[kept[-1]]] += [
                output_records.record(topic, self._model.version, alert) for alert in alerts
            ]
        spent_ms = np.diff(clock) * 1000.0
        duplicates = len(rows) - len(kept)
        measured = [row for row in kept if batch.arrived_ms[row]]
        self._on_batch(
            ScoringBatchTiming(
                len(kept),
                duplicates,
                0,
                *spent_ms.tolist(),
                event_to_score_ms=waited_ms[measured].tolist(),
                event_to_alert_ms=waited_ms[[row for row in measured if row in alerted]].tolist(),
            )
        )
        return sent

    def _evaluate_rules(
        self, batch: EventBatch, columns: _RuleColumns, kept: list[int]
    ) -> list[ScoredEvent]:
        """Returns the events of the rows `kept` with their flags."""
        rules = self._feeds.rules.current()
        columns |= self._attributes.rule_columns(
            rules.attributes("event"), batch.user_id, batch.event_ms.tolist()
        )
        # For all rows: selecting the kept rows of 400 columns would cost more.
        matches = flag_policy.evaluate_rules(rules.evaluated("event"), columns, len(batch.user_id))
        evaluations = [
            flag_policy.RuleEvaluation(
                batch.user_id[row], int(batch.event_ms[row]), matches[row], batch.event_id[row]
            )
            for row in kept
        ]
        flags = self._flag_policy.raise_flags(evaluations, rules.version)
        return [
            ScoredEvent(
                user_id=evaluation.user_id,
                event_id=evaluation.event_id,
                event_ms=evaluation.time_ms,
                event_type=batch.event_type[row],
                amount=float(batch.amount[row]),
                score=float(columns[SCORE_FEATURE][row]),
                model_version=self._model.version,
                rules_version=rules.version,
                active_rules=[match.rule.id for match in evaluation.matches],
                entities=tuple(ids[row] for ids in batch.entities),
                flags=event_flags,
            )
            for row, evaluation, event_flags in zip(kept, evaluations, flags, strict=True)
        ]

    def _explain(
        self, scored: list[ScoredEvent], lists: EventLists, x_nF: np.ndarray, kept: list[int]
    ) -> list[ScoredEvent]:
        """Adds the model's reasons to the flags whose rules use the model's score."""
        by_model = [
            index
            for index, event in enumerate(scored)
            if any(flag.evidence.get(SCORE_FEATURE) is not None for flag in event.flags)
        ]
        if not by_model:
            return scored
        rows = np.array([kept[index] for index in by_model])
        for index, reasons in zip(by_model, explain(self._model, lists, x_nF, rows), strict=True):
            added = [reason.as_dict() for reason in reasons]
            scored[index] = scored[index]._replace(
                flags=[
                    flag._replace(reasons=[*flag.reasons, *added])
                    if SCORE_FEATURE in flag.evidence
                    else flag
                    for flag in scored[index].flags
                ]
            )
        return scored
