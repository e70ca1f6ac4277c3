"""The event model on a shop's own events: rows as of a backfill, labels, parts, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.pipeline.backfill_run import EVENTS
from liveprofile.errors import InputError
from liveprofile.features.entity import from_rows, read
from liveprofile.labels.feedback import Record
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import read_rows
from models.fraud.datasets.labelled_rows import Labels, OwnEvents, read_events
from models.fraud.model import EventModel
from models.fraud.training import train_on_labels
from models.fraud.training.train_on_labels import Split
from tests.reference.entity_features import Arrival, Event, Label
from tests.reference.scoring import parts

START = date(2024, 1, 1)
START_MS = (START - date(1970, 1, 1)).days * DAY_MS
DELAY = 2.0
DAYS = 24
SPLIT = Split(date(2024, 1, 3), date(2024, 1, 12), date(2024, 1, 18), date(2024, 1, 22), DELAY)
FAST = ({"max_depth": 3, "rounds": 20, "eta": 0.3},)
RULES = read_rules(product_path(Path("rules.toml")))


def shop() -> list[Event]:
    """Users who buy with a device of their own; thieves who buy for much on one device."""
    random = np.random.default_rng(4)
    events = []
    for number in range(DAYS * 60):
        time_ms = START_MS + number * DAY_MS // 60
        thief = number % 12 == 5
        user = f"u{random.integers(40)}"
        amount = float(np.round(random.lognormal(6 if thief else 3, 0.3), 2))
        device = f"stolen{number // 120}" if thief else f"of-{user}"
        events.append(Event(f"e{number}", user, "purchase", time_ms, amount, device))
    return events


def verdicts(events: list[Event]) -> list[Record]:
    """A day and a half after each fraud, but four days after every fourth, which is longer than the
    delay; of every tenth other event that it was none."""
    labels = []
    for number, event in enumerate(events):
        stolen = event.device.startswith("stolen")
        if stolen or number % 10 == 0:
            delay_ms = 4 * DAY_MS if number % 48 == 5 else 3 * DAY_MS // 2
            labels.append(
                {
                    "event_id": event.id, "user_id": event.user, "device_id": event.device,
                    "label": "fraud" if stolen else "legitimate", "analyst": "bank",
                    "event_time": event.time_ms, "time": event.time_ms + delay_ms,
                }
            )  # fmt: skip
    return labels


def arrivals(events: list[Event], labels: list[Record]) -> list[Arrival]:
    by_id = {event.id: event for event in events}
    given = [Label(by_id[one["event_id"]], one["label"] == "fraud", one["time"]) for one in labels]
    return sorted([*events, *given], key=lambda one: (one.time_ms, isinstance(one, Event)))


def write_rows(folder: Path, events: list[Event], labels: list[Record], files: int = 3) -> None:
    """In no order of time, over several files."""
    known = arrivals(events, labels)
    rows = [
        {
            "user_id": one.user, "event_id": one.id, "event_type": one.type,
            "event_ms": one.time_ms, "amount": one.amount, "parts": parts(known, place),
        }
        for place, one in enumerate(known)
        if isinstance(one, Event)
    ]  # fmt: skip
    for number in range(files):
        part = folder / f"month=2024-0{number}"
        part.mkdir(parents=True)
        schema = EVENTS.kept.remove(EVENTS.kept.get_field_index("month"))
        table = pa.Table.from_pylist(rows[number::files][::-1], schema)
        pq.write_table(table, part / "part-0.parquet", row_group_size=300)


SHOP = shop()
LABELS = verdicts(SHOP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, SHOP, LABELS)
    return folder


@pytest.fixture(scope="module")
def own(folder: Path) -> OwnEvents:
    return read_events(folder, Labels.of(LABELS))


@pytest.fixture(scope="module")
def trained(own: OwnEvents, tmp_path_factory: pytest.TempPathFactory) -> EventModel:
    out = tmp_path_factory.mktemp("model")
    train_on_labels.train_own(own, SPLIT, RULES, out, settings=FAST)
    return EventModel.load(out)


def test_events_are_in_order_of_time_whatever_their_files(own: OwnEvents) -> None:
    assert own.time_ms_N.tolist() == [event.time_ms for event in SHOP]
    assert own.amount_N.tolist() == [event.amount for event in SHOP]
    users = set(zip((event.user for event in SHOP), own.user_N.tolist(), strict=True))
    assert len(users) == len({event.user for event in SHOP}) == own.user_N.max() + 1


def test_a_backfill_keeps_the_first_of_copies_and_tells_the_month() -> None:
    twice = [SHOP[0], SHOP[40], SHOP[0], SHOP[40]._replace(time_ms=SHOP[40].time_ms + 32 * DAY_MS)]
    rows = [{"user_id": one.user, "parts": parts(twice, row)} for row, one in enumerate(twice)]
    kept = EVENTS.keep(pa.RecordBatch.from_pylist(rows, EVENTS.columns))
    assert kept["event_id"].to_pylist() == ["e0", "e40", "e40"]
    assert kept["month"].to_pylist() == ["2024-01", "2024-01", "2024-02"]
    assert kept["amount"].to_pylist() == [SHOP[0].amount, SHOP[40].amount, SHOP[40].amount]
    assert kept["parts"].to_pylist() == [row["parts"] for row in (rows[0], rows[1], rows[3])]


def test_features_are_those_of_the_lane(own: OwnEvents) -> None:
    names = ["amount", "user_events_7d", "device_frauds_7d", "device_risk_1d", "user_new_device"]
    wanted = np.array([1_200, 3, 713, 712])
    known = arrivals(SHOP, LABELS)
    rows = [known.index(SHOP[place]) for place in wanted]
    batch = read_rows([SHOP[place].user for place in wanted], [parts(known, row) for row in rows])
    expected = from_rows(read(batch), DELAY)
    found = own.features(wanted, names, DELAY)
    for column, name in zip(found.T, names, strict=True):
        np.testing.assert_array_equal(column, expected[name].astype(np.float32), name)
    assert found[:, names.index("device_frauds_7d")].any()


def test_it_finds_frauds_and_stands_beside_its_baselines(trained: EventModel) -> None:
    about = trained.about
    assert about["test"]["average_precision"] > 0.9
    assert about["baselines"]["logistic_regression"]["events"] == about["test"]["events"]
    assert 0 < about["baselines"]["rules"]["average_precision"] < 0.9
    assert set(about["thresholds"]) == {"budget_10", "budget_20", "budget_30", "cost"}
    assert trained.reference is not None and trained.delay_days == DELAY
    assert about["labels"] == {"given": len(LABELS), "events": len(LABELS), "of_unknown_events": 0}


def test_parts_end_the_delay_before_the_next_begins(trained: EventModel) -> None:
    """60 events a day."""
    found = trained.about["train"], trained.about["validation"], trained.about["test"]
    assert [part["events"] for part in found] == [7 * 60, 4 * 60, 5 * 60]


def test_a_label_counts_once_it_is_given_and_the_latest_of_an_event(folder: Path) -> None:
    first = LABELS[0] | {"event_id": "e10", "label": "fraud", "time": 1_000}
    later = first | {"label": "legitimate", "time": "1970-01-01T00:00:02Z"}
    events = read_events(folder, Labels.of([later, first]))
    known = [events.fraud_N(before_ms)[10] for before_ms in (1_000, 1_001, 2_000, 2_001)]
    assert known == [False, True, True, False]
    assert events.fraud_N(1_001).sum() == 1


def another_future(after_ms: int) -> tuple[list[Event], list[Record]]:
    events = [
        event if event.time_ms < after_ms else event._replace(amount=7.0, device="another")
        for event in SHOP
    ]
    turned = {"fraud": "legitimate", "legitimate": "fraud"}
    labels = [
        one if one["time"] < after_ms else one | {"label": turned[one["label"]]} for one in LABELS
    ]
    return events, labels


@pytest.mark.parametrize("part", ["validation", "test"])
def test_no_part_sees_what_comes_after_it(own: OwnEvents, tmp_path: Path, part: str) -> None:
    """All that happens once a part has begun is changed, labels of earlier events too: what the
    parts before it yield stays, bit for bit."""
    start_ms = SPLIT.spans_ms[part][0]
    events, labels = another_future(start_ms)
    moved = [one for one in labels if one["time"] >= start_ms > one["event_time"]]
    assert len(moved) > 5
    write_rows(tmp_path, events, labels)
    changed = read_events(tmp_path, Labels.of(labels))
    one, other = (
        train_on_labels.train_own(each, SPLIT, RULES, settings=FAST) for each in (own, changed)
    )
    assert one.booster.save_raw() == other.booster.save_raw()
    assert one.about["train"] == other.about["train"]
    assert str(one.usual) == str(other.usual)
    judged = [
        (model.calibration, model.about["thresholds"], model.about["validation"], model.reference)
        for model in (one, other)
    ]
    assert (judged[0] == judged[1]) == (part == "test")
    assert one.about["test"] != other.about["test"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train_start": date(2024, 1, 10)}, "--validation-start 2024-01-12: nothing is left"),
        ({"validation_start": date(2024, 1, 17)}, "--test-start 2024-01-18: nothing is left"),
        ({"test_end": date(2024, 1, 17)}, "is before --test-start"),
        ({"delay_days": -1.0}, "must not be negative"),
    ],
)
def test_days_that_leave_nothing(changed: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(SPLIT, **changed)


def test_a_test_whose_labels_may_still_come(own: OwnEvents) -> None:
    split = replace(SPLIT, test_end=date(2024, 1, 27))
    with pytest.raises(InputError, match=r"2024-01-28, so labels .* later than 2024-01-26, 2 days"):
        train_on_labels.train_own(own, split, RULES, settings=FAST)


def test_too_few_frauds(own: OwnEvents) -> None:
    split = replace(SPLIT, train_start=date(2024, 1, 9))
    with pytest.raises(InputError, match=r"the train part, 2024-01-09 to .* 60 events, 3 of them"):
        train_on_labels.train_own(own, split, RULES, settings=FAST)


def test_rows_that_can_not_be_used(folder: Path, tmp_path: Path) -> None:
    labels = Labels.of(LABELS)
    with pytest.raises(InputError, match="no events in them"):
        read_events(tmp_path, labels)
    with pytest.raises(InputError, match="none of the 1 labelled events is there"):
        read_events(folder, Labels.of([LABELS[0] | {"event_id": "unheard-of"}]))
    with pytest.raises(InputError, match="there are no labels"):
        Labels.of([])
    pq.write_table(pa.table({"user_id": ["u"], "history": [""]}), tmp_path / "windows.parquet")
    with pytest.raises(InputError, match=r"column event_id is missing; .* --pipeline scoring"):
        read_events(tmp_path, labels)
    (tmp_path / "windows.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=r"windows\.parquet"):
        read_events(tmp_path, labels)
    (tmp_path / "windows.parquet").unlink()
    for copy in "a", "b":
        write_rows(tmp_path / copy, SHOP[:50], [], files=1)
    with pytest.raises(InputError, match="events come twice"):
        read_events(tmp_path, labels)


DAYS_OPTIONS = [
    "--train-start", "2024-01-03", "--validation-start", "2024-01-12", "--test-start", "2024-01-18",
    "--test-end", "2024-01-22", "--delay-days", "2",
]  # fmt: skip


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in [*LABELS, {"event_id": "e1"}]))
    return file


def test_the_command(folder: Path, labels_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = CliRunner().invoke(
        app,
        ["train", "event-risk", "--rows", str(folder), "--labels", str(labels_file), *DAYS_OPTIONS,
         "--out", str(out)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["version"] == EventModel.load(out).version
    assert report["rejected_labels"] == 1
    assert "labels.jsonl row" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows", "R", "--train-start", "2024-01-03"], "--rows needs --validation-start too"),
        (["--labels", "L"], "they go with --rows"),
        (["--test-end", "2024-01-03"], "they go with --rows"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "event-risk", "--out", str(tmp_path), *arguments])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
