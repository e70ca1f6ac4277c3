"""Compares the scores that the running job stores for card transactions with the offline scores.

Each transaction is sent as an event (a card is a user, a terminal a shop). The label of a fraud is
sent to the topic risk-feedback on the day on which it becomes known.

Shapes: N transactions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.support import runs
from intake import labels as feedback
from lab.card_transactions import train_handbook
from lab.card_transactions.data import (
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    read_transactions,
    train_test_rows,
)
from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.records import send_all
from liveprofile.settings import Settings
from liveprofile.storage import connection
from liveprofile.units import DAY_MS, MINUTE_MS
from stack.local import Stack

NAME = "card-frauds"
MAX_SENT_PER_S = 1_500  # an estimate of the job's throughput; the job may fall behind
SCORED_TIMEOUT_S = 900.0


def transactions_from(data: Transactions, first: date) -> Transactions:
    """The transactions on or after the day `first`."""
    kept = data.day_N >= (first - date(1970, 1, 1)).days
    return Transactions(*(column[kept] for column in data))


def card_frauds(stack: Stack, file: Path, first: date, period: TrainTestPeriod) -> dict[str, Any]:
    """Trains on the transactions from `first` on, then replays them to the end of the test period.

    Raises ServiceError if a tested transaction has no stored score.
    """
    data = transactions_from(read_transactions(file), first)
    with tempfile.TemporaryDirectory(prefix="liveprofile-cards-") as folder:
        runs.log_progress("card frauds: training")
        offline = train_handbook.train_handbook(data, period, Path(folder))
        overrides = {
            "window": {"length_ms": DAY_MS, "out_of_orderness_ms": MINUTE_MS},
            "job": {"checkpoint_interval_ms": 5_000},
            "scoring": {"checkpoint": folder},
        }
        with runs.running_job(stack, "both-pipelines", NAME, None, overrides) as job:
            began_s = time.monotonic()
            sent = _send(job.settings, data, period)
            offsets.wait_for_scoring(job.settings, SCORED_TIMEOUT_S)
            seconds = time.monotonic() - began_s
            job.check()
            stored = _read_stored_scores(job.settings)
    _, test_rows = train_test_rows(data, period)
    scores = np.array([stored.get(f"t{row}", np.nan) for row in test_rows])
    missing = int(np.isnan(scores).sum())
    if missing:
        raise ServiceError(f"{missing} of {len(scores)} tested transactions were not scored")
    return {
        "first": first.isoformat(),
        "sent": sent,
        "seconds": round(seconds, 1),
        "scored": len(stored),
        "offline": offline["test"],
        "stored": ranking_metrics(data, test_rows, scores)._asdict(),
    }


def _send(settings: Settings, data: Transactions, period: TrainTestPeriod) -> int:
    """Sends, day by day, the labels that become known and then the day's transactions.

    Sends at most MAX_SENT_PER_S transactions per second; returns the number of transactions.
    """
    last = int(np.searchsorted(data.day_N, period.test_end, side="right"))
    frauds = np.flatnonzero(data.fraud_N[:last])
    known_day = data.day_N[frauds] + period.delay_days
    began_s = time.monotonic()
    for day in range(int(data.day_N[0]), period.test_end + 1):
        feedback.send_labels(
            settings, [_label(data, row, period) for row in frauds[known_day == day]]
        )
        rows = np.flatnonzero(data.day_N[:last] == day)
        send_all(settings, settings.topics.events, _events(data, rows))
        ahead_s = (rows[-1] + 1) / MAX_SENT_PER_S - (time.monotonic() - began_s)
        if day % 7 == 0:
            runs.log_progress(
                f"card frauds: sent up to {datetime.fromtimestamp(day * 86_400, UTC):%d %B}"
            )
        time.sleep(max(0.0, ahead_s))
    return last


def _events(data: Transactions, rows: np.ndarray) -> Iterator[tuple[bytes, bytes, dict]]:
    for row in rows.tolist():
        user_id = f"card{data.card_N[row]}"
        event = {
            "event_id": f"t{row}",
            "user_id": user_id,
            "event_type": "purchase",
            "event_time": int(data.time_ms_N[row]),
            "amount": float(data.amount_N[row]),
            "attributes": {"shop_id": _shop_id(data, row)},
        }
        yield user_id.encode(), orjson.dumps(event), {}


def _label(data: Transactions, row: int, period: TrainTestPeriod) -> dict[str, Any]:
    return {
        "event_id": f"t{row}",
        "user_id": f"card{data.card_N[row]}",
        "event_type": "purchase",
        "event_time": int(data.time_ms_N[row]),
        "label": "fraud",
        "analyst": NAME,
        "time": int(data.time_ms_N[row]) + period.delay_days * DAY_MS,
        "shop_id": _shop_id(data, row),
    }


def _shop_id(data: Transactions, row: int) -> str:
    return f"terminal{data.terminal_N[row]}"


def _read_stored_scores(settings: Settings) -> dict[str, float]:
    """All stored scores: event id -> score."""
    with connection.open_session(settings.cassandra) as session:
        rows = session.execute("SELECT event_id, score FROM risk_score_by_hour", timeout=120)
        return {row.event_id: row.score for row in rows}
