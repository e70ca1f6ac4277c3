"""The event lane's work without the operator: a batch of events in, all stored, messages out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from liveprofile.alerts.cloud_events import alerts
from liveprofile.config import Settings
from liveprofile.features.entity import EventBatch, Rows, read
from liveprofile.pseudonym import hashed
from liveprofile.rules import flag_policy
from liveprofile.rules.flag_policy import SCORE
from liveprofile.wire import output_records
from liveprofile.wire.scored_events import ENTITIES, read_rows
from models.fraud.explain.reasons import explain
from models.fraud.model import EventModel, probability
from udfs.profile.batch import DATA_ERRORS, MOST_FAILED_ROWS
from udfs.rules_feed import RulesFeed
from udfs.scoring.drift_monitor import DriftMonitor
from udfs.scoring.sink import ScoredEvent, ScoringSink

log = logging.getLogger(__name__)

STAGES = ("read", "score", "rules", "store")


class Timing(NamedTuple):
    """Of one batch, in milliseconds."""

    rows: int
    duplicates: int
    unscored: int  # rows that could not be read
    read_ms: float
    score_ms: float
    rules_ms: float
    store_ms: float


class EventScorer:
    """Scores events, stores what comes of them, and says what to send after that.

    on_batch is called once for each batch.
    """

    def __init__(
        self,
        settings: Settings,
        model: EventModel,
        store: ScoringSink,
        rules: RulesFeed,
        on_batch: Callable[[Timing], None] = lambda timing: None,
    ):
        self._settings, self._model, self._store, self._rules = settings, model, store, rules
        self._raiser = flag_policy.FlagPolicy(store)
        self._drift = self._drift_monitor()
        self._on_batch = on_batch
        self._failed_rows = 0  # since the last that succeeded

    def _drift_monitor(self) -> DriftMonitor | None:
        reference, store = self._model.reference, self._store.drift
        if reference is None or store is None:
            missing = "store" if store is None else "reference.json"
            log.info("no drift is watched: model %s has no %s", self._model.version, missing)
            return None
        return DriftMonitor(
            reference, self._model.version, self._model.names, store,
            self._settings.scoring.drift_after_days,
        )  # fmt: skip

    def score(self, user_id: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
        """The messages of each row of `jobs.sql.scoring_views.known`; a duplicate has none. When it
        returns, every event is stored.

        A row that can't be read is left out, with a line in the log: its event has its account in
        the profile lane. Raises StoreError when writing kept failing; whatever else it raises fails
        the task too, and the rows are replayed.
        """
        try:
            sent = self._score(user_id, parts)
        except DATA_ERRORS as error:
            if len(user_id) > 1:
                rows = zip(user_id, parts, strict=True)
                return list(chain.from_iterable(self.score([who], [one]) for who, one in rows))
            self._failed_rows += 1
            if self._failed_rows > MOST_FAILED_ROWS:
                raise
            log.warning("an event of user %s is not scored: %s", hashed(user_id[0]), error)
            self._on_batch(Timing(1, 0, 1, 0.0, 0.0, 0.0, 0.0))
            return [[]]
        self._failed_rows = 0
        return sent

    def _score(self, user_id: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
        clock = [time.perf_counter()]
        batch = read_rows(user_id, parts)
        rows = read(batch)
        clock.append(time.perf_counter())
        features = self._model.columns(rows)
        x_nF = self._model.matrix(features)
        score_n = probability(self._model.log_odds(x_nF))
        clock.append(time.perf_counter())
        # In order of time, as rules look back; a copy of an event was judged before.
        order = np.argsort(batch.event_ms, kind="stable")
        kept = order[~rows.duplicates()[order]].tolist()
        columns = features | {SCORE: score_n, "event_type": np.array(batch.event_type)}
        scored = self._judge(batch, columns, kept)
        scored = self._explain(scored, rows, x_nF, kept)
        clock.append(time.perf_counter())
        self._store.begin(scored)
        snoozed = self._store.snoozed(event.user_id for event in scored if event.flags)
        self._store.wait()
        clock.append(time.perf_counter())
        sent: list[list[str]] = [[] for _ in user_id]
        for row, event in zip(kept, scored, strict=True):
            if event.flags:
                topic = self._settings.topics.alerts
                sent[row] = alerts(topic, event, snoozed[event.user_id])
        if self._drift is not None and kept:
            told = self._drift.observe(x_nF, score_n, batch.event_ms, batch.user_id, kept)
            topic = self._settings.topics.alerts
            sent[kept[-1]] += [
                output_records.plain(topic, self._model.version, one) for one in told
            ]
        spent = np.diff(clock) * 1000.0
        self._on_batch(Timing(len(kept), len(sent) - len(kept), 0, *spent.tolist()))
        return sent

    def _judge(
        self, batch: EventBatch, columns: dict[str, np.ndarray], kept: list[int]
    ) -> list[ScoredEvent]:
        rules = self._rules.current()
        # Of all rows: to pick those that are kept out of 400 columns would cost more.
        found = flag_policy.evaluate(rules.of("event"), columns, len(batch.user_id))
        judged = [
            flag_policy.RuleEvaluation(
                batch.user_id[row], int(batch.event_ms[row]), found[row], batch.event_id[row]
            )
            for row in kept
        ]
        flags = self._raiser.raise_flags(judged, rules.version)
        return [
            ScoredEvent(
                user_id=one.user_id,
                event_id=one.event_id,
                event_ms=one.time_ms,
                event_type=batch.event_type[row],
                amount=float(batch.amount[row]),
                score=float(columns[SCORE][row]),
                model_version=self._model.version,
                rules_version=rules.version,
                active_rules=[finding.rule.id for finding in one.findings],
                entities=tuple(getattr(batch, name)[row] for name in ENTITIES),
                flags=raised,
            )
            for row, one, raised in zip(kept, judged, flags, strict=True)
        ]

    def _explain(
        self, scored: list[ScoredEvent], rows: Rows, x_nF: np.ndarray, kept: list[int]
    ) -> list[ScoredEvent]:
        """Flags that go by the model's score are told by the model's reasons, too."""
        by_model = [
            index
            for index, event in enumerate(scored)
            if any(flag.evidence.get(SCORE) is not None for flag in event.flags)
        ]
        if not by_model:
            return scored
        reasons = explain(self._model, rows, x_nF, np.array([kept[index] for index in by_model]))
        for index, found in zip(by_model, reasons, strict=True):
            told = [reason.as_dict() for reason in found]
            scored[index] = scored[index]._replace(
                flags=[
                    flag._replace(reasons=[*flag.reasons, *told])
                    if SCORE in flag.evidence
                    else flag
                    for flag in scored[index].flags
                ]
            )
        return scored
