"""The command turns a shop's events and labels into training rows, which training reads."""

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from cli.main import app
from intake.simulator import Shop, ShopConfig
from liveprofile.features.entity import COLUMN_OF, SCORED_TYPES, features_from_lists, parse_lists
from liveprofile.settings import load
from liveprofile.wire.scored_events import read_rows
from models.fraud.datasets.labelled_rows import LabelLog, read_labelled_events
from offline import backfill
from tests.pipeline.harness import run_backfill_in_this_process
from tests.reference.entity_features import Arrival, Event, features
from tests.reference.scoring import read_events, read_label
from tests.reference.windows import Record

CONFIG = ShopConfig(users=150, days=40, seed=12, takeovers=20, card_tests=30, rings=1)
DELAY_DAYS = 5


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "_run_embedded", run_backfill_in_this_process)
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
def backfilled(
    shop: tuple[list[dict], list[dict]], tmp_path_factory: pytest.TempPathFactory
) -> Backfill:
    return run_backfill(tmp_path_factory.mktemp("shop"), *shop)


def test_features_equal_the_reference(
    backfilled: Backfill, shop: tuple[list[dict], list[dict]]
) -> None:
    """Compares every 40th row with the reference, which sees no later event or label."""
    events, labels = shop
    records = [
        Record(0, 0, event["event_time"], None, json.dumps(event).encode()) for event in events
    ]
    arrivals: list[Arrival] = read_events(records, load().limits)
    rows = {row["event_id"]: row for row in backfilled.rows}
    assert len(rows) == len(backfilled.rows) == backfilled.report["rows"] == len(arrivals)
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
    timed = (label | {"time": label["known_at"]} for label in labels)
    read = read_labelled_events(backfilled.folder / "rows", LabelLog.from_records(timed))
    assert len(read.time_ms_N) == len(rows) and read.fraud_N(1 << 60).any()
