"""The benchmark of the forecast counts a file as the product does."""

from __future__ import annotations

import json

import numpy as np

from lab.trends import count_file, measure
from liveprofile.units import HOUR_MS

START_MS = 1_699_833_600_000


def test_file_is_counted_by_hour(tmp_path) -> None:
    events = [
        {"event_id": f"e{n}", "user_id": f"u{n % 2}", "event_type": kind, "amount": 2,
         "event_time": START_MS + n * HOUR_MS // 2}
        for n, kind in enumerate(["purchase"] * 4 + ["view"])
    ]  # fmt: skip
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in [*events, {"broken": 1}]))
    counts, latest_ms = count_file(file, None)
    assert [tuple(count) for count in counts] == [
        (START_MS, 2, 4.0, 2),
        (START_MS + HOUR_MS, 2, 4.0, 2),
    ]
    assert latest_ms == START_MS + 2 * HOUR_MS


def test_regular_shop_is_forecast_without_error() -> None:
    week = np.arange(7 * 24).reshape(7, 24) % 50
    result = measure(np.tile(week, (20, 1)).astype(float), 1.0)
    assert result["days"] == 140 - 84
    assert result["hour"]["mae"] == result["hour"]["naive_mae"] == 0
    assert result["hour"]["coverage"] == result["day"]["coverage"] == 1
