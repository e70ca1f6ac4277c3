"""Backtests the forecast of `liveprofile shop trends` on the events of a file.

    python -m lab.trends FILE MAPPING [--metric amount]

Each complete day is forecast from the days before it; FILE chooses no setting of the method. The
last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.support.report import describe
from cli.shop import Metric
from liveprofile.events.validation import AcceptedEvent, accept
from liveprofile.ingest.replay import open_source
from liveprofile.settings import Settings
from liveprofile.trends.counts import ALL, Series, distinct_users, user_hash
from liveprofile.trends.forecast import FIRST_DAYS, METHODS, SCORED_DAYS, WEEK_DAYS, backtest
from liveprofile.trends.points import StoredCount, hours_by_day, unit_of
from liveprofile.trends.update import CountedEvent, count_events

BUSY_EVENTS = 0.5  # an hour with a smaller forecast is quiet


def count_file(file: Path, mapping: Path | None) -> tuple[list[StoredCount], int]:
    """Counts the purchases of a file by hour, as `liveprofile shop trends update` does.

    Returns the counts, and the latest event time.
    """
    limits, now_ms, latest_ms = Settings().limits, round(time.time() * 1e3), 0
    events: list[CountedEvent] = []
    batches = open_source(file, mapping)
    for batch in batches:
        for value in batch.values:
            event = accept(value, now_ms, limits)
            if isinstance(event, AcceptedEvent):
                about = (event.category, event.event_type, event.time_ms, event.amount)
                events.append(CountedEvent(0, 0, 0, 0, *about, user_hash(event.user_id)))
                latest_ms = max(latest_ms, event.time_ms)
    counts = count_events(pd.DataFrame(events, columns=list(CountedEvent._fields)), ())
    series = Series(ALL, "", "purchase")
    rows = sorted(counts[("hour", series)].items())
    exact = series.exact_users
    return [
        StoredCount(start_ms, row.events, row.amount, distinct_users(row.user_hashes, exact))
        for start_ms, row in rows
    ], latest_ms


def measure(values: np.ndarray, unit: float) -> dict[str, Any]:
    """values: (D, 24)."""
    result, first = backtest(values, unit), FIRST_DAYS + SCORED_DAYS
    actual, forecast = values[first:], result.forecast[first:]
    naive = values[first - WEEK_DAYS : -WEEK_DAYS]
    inside = (actual >= result.low[first:]) & (actual <= result.high[first:])
    busy = forecast >= BUSY_EVENTS * unit
    days, total = actual.sum(axis=1), slice(first, None)
    of_days = (days >= result.total_low[total]) & (days <= result.total_high[total])
    return {
        "days": len(actual),
        "hour": {
            "mae": round(float(np.abs(forecast - actual).mean()), 2),
            "naive_mae": round(float(np.abs(naive - actual).mean()), 2),
            "coverage": round(float(inside.mean()), 3),
            "coverage_of_busy_hours": round(float(inside[busy].mean()), 3),
        },
        "day": {
            "mae": round(float(np.abs(forecast.sum(axis=1) - days).mean()), 2),
            "naive_mae": round(float(np.abs(naive.sum(axis=1) - days).mean()), 2),
            "coverage": round(float(of_days.mean()), 3),
        },
        "naive_used": int((result.method[first:] == METHODS.index("seasonal naive")).sum()),
    }


def main(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines.")],
    mapping: Annotated[Path, typer.Argument(help="Mapping of the file (TOML).")],
    metric: Annotated[Metric, typer.Option("--metric")] = "events",
) -> None:
    """Backtest the forecast of the next day on the purchases of a file."""
    counts, latest_ms = count_file(file, mapping)
    values, _ = hours_by_day(counts, metric, latest_ms)
    result = {"metric": metric, **measure(values, unit_of(counts, metric))}
    print(json.dumps(result | describe()))


if __name__ == "__main__":
    typer.run(main)
