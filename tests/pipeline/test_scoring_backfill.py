"""The commands turn a shop's events and labels into training rows, and those into a model.

Final state: the jobs have ended; each has a folder with rows and a model.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.features.entity import COLUMN_OF, SCORED_TYPES, features_from_lists, parse_lists
from liveprofile.settings import load
from liveprofile.simulator import Shop, ShopConfig
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import read_rows
from models.fraud.model import FraudModel
from offline import backfill as offline_backfill
from tests.pipeline.harness import run_backfill_in_this_process
from tests.reference.entity_features import Arrival, Event, features
from tests.reference.scoring import read_events, read_label
from tests.reference.windows import Record

CONFIG = ShopConfig(users=150, days=40, seed=12, takeovers=20, card_tests=30, rings=1)
DELAY_DAYS = 5
NOW_MS = CONFIG.start_ms + 20 * DAY_MS
DAYS = (
    "--train-start 2024-01-04 --validation-start 2024-01-22"
    " --test-start 2024-02-01 --test-end 2024-02-08"
)


class Backfill(NamedTuple):
    folder: Path
    report: dict

    @property
    def rows(self) -> list[dict]:
        return ds.dataset(self.folder / "rows", partitioning="hive").to_table().to_pylist()


def run_backfill(folder: Path, events: list[dict], labels: list[dict]) -> Backfill:
    for name, records in ("events", events), ("labels", labels):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    arguments = (
        f"model backfill {folder}/events.jsonl --labels {folder}/labels.jsonl"
        f" --pipeline scoring --rows {folder}/rows --embedded --no-consents --json"
    )
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return Backfill(folder, json.loads(result.stdout))


@pytest.fixture(scope="module")
def shop() -> tuple[list[dict], list[dict]]:
    """Returns events, and labels of the scored ones as `liveprofile events generate` writes
    them.
    """
    days = list(Shop(CONFIG))
    events = [event for day in days for event in day.records()]
    scored = {event["event_id"] for event in events if event["event_type"] in SCORED_TYPES}
    labels = [json.loads(line) for day in days for line in day.label_lines().splitlines()]
    return events, [label for label in labels if label["event_id"] in scored]


@pytest.fixture(scope="module")
def backfill(
    shop: tuple[list[dict], list[dict]], tmp_path_factory: pytest.TempPathFactory
) -> Backfill:
    return run_backfill(tmp_path_factory.mktemp("shop"), *shop)


def test_features_equal_the_reference(
    backfill: Backfill, shop: tuple[list[dict], list[dict]]
) -> None:
    """Compares every 40th row with tests/reference/entity_features.py."""
    events, labels = shop
    records = [Record(0, 0, _time_ms(event), None, json.dumps(event).encode()) for event in events]
    arrivals: list[Arrival] = read_events(records, load().limits)
    rows = {row["event_id"]: row for row in backfill.rows}
    assert len(rows) == len(backfill.rows) == backfill.report["rows"] == len(arrivals)
    given = [json.dumps(label | {"time": label["known_at"]}).encode() for label in labels]
    arrivals += [label for value in given if (label := read_label(Record(0, 0, 0, None, value)))]
    arrivals.sort(key=lambda arrival: (arrival.time_ms, isinstance(arrival, Event)))
    positions = [at for at, one in enumerate(arrivals) if isinstance(one, Event)][::40]
    part = [rows[arrivals[position].id] for position in positions]
    batch = read_rows([row["user_id"] for row in part], [row["parts"] for row in part])
    found = features_from_lists(parse_lists(batch), DELAY_DAYS)
    for place, position in enumerate(positions):
        for name, value in features(arrivals, position, delay_days=DELAY_DAYS).items():
            expected = pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True)
            assert found[place, COLUMN_OF[name]] == expected, (name, arrivals[position])
    assert found[:, COLUMN_OF["device_frauds_30d"]].any()


def test_later_events_and_labels_do_not_change_earlier_rows(
    backfill: Backfill,
    shop: tuple[list[dict], list[dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After NOW_MS, events and labels differ, also labels of earlier events.

    The rows before NOW_MS stay equal, byte for byte.
    """
    events, labels = shop
    future = [event | {"user_id": "u-another"} for event in events if _time_ms(event) >= NOW_MS]
    events = [event for event in events if _time_ms(event) < NOW_MS] + future[::2]
    opposite = {"fraud": "legitimate", "legitimate": "fraud"}
    labels = [
        label if label["known_at"] < NOW_MS else label | {"label": opposite[label["label"]]}
        for label in labels
    ]
    with monkeypatch.context() as patch:
        patch.setattr(offline_backfill, "_run_embedded", run_backfill_in_this_process)
        changed = run_backfill(tmp_path, events, labels)
    rows, changed_rows = (
        {row["event_id"]: _parts(row) for row in run.rows if row["event_ms"] < NOW_MS}
        for run in (backfill, changed)
    )
    assert len(rows) > 1_000
    assert rows == changed_rows
    assert any("+" in part for parts in rows.values() for part in parts)


def _time_ms(event: dict) -> int:
    return event["event_time"]


def _parts(row: dict) -> list[str]:
    """Sorts the parts: the order in which an event's parts are joined is not fixed."""
    return sorted(row["parts"].split("\x1d"))


def test_model_trained_on_rows_finds_frauds(backfill: Backfill) -> None:
    out = backfill.folder / "model"
    arguments = (
        f"model train event-risk --rows {backfill.folder}/rows"
        f" --labels {backfill.folder}/labels.jsonl {DAYS} --delay-days {DELAY_DAYS} --out {out}"
    )
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    model = FraudModel.load(out)
    assert model.version == report["version"]
    assert report["test"]["average_precision"] > 0.5
    assert report["test"]["average_precision"] > report["baselines"]["rules"]["average_precision"]
