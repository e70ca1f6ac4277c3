"""Training on a shop's own events and labels: backfill rows, labels, splits, errors, command."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.features.entity import COLUMN_OF, ORDER_FEATURES, features_from_lists, parse_lists
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import read_rows
from models import trained_users
from models.fraud.datasets.labelled_rows import LabelLog, read_labelled_events
from models.fraud.model import FraudModel
from models.fraud.training import fit
from models.fraud.training.train_on_labels import DateSplit, train_on_labels
from models.trained_users import erase_rows, user_key
from offline.backfill import SCORING_ROWS
from tests.reference.entity_features import Event, Label
from tests.reference.scoring import event_parts

pytestmark = pytest.mark.slow

START = date(2024, 1, 1)
START_MS = (START - date(1970, 1, 1)).days * DAY_MS
DELAY = 2.0
DAYS = 24
SPLIT = DateSplit(date(2024, 1, 3), date(2024, 1, 12), date(2024, 1, 18), date(2024, 1, 22), DELAY)
FAST_SETTINGS = ({"max_depth": 3, "rounds": 20, "eta": 0.3},)
RULES = read_rules(product_path(Path("rules.toml")))


def make_events():
    """Users buy on a device of their own; frauds are large amounts on a shared stolen device."""
    random = np.random.default_rng(4)
    events = []
    for number in range(DAYS * 60):
        time_ms = START_MS + number * DAY_MS // 60
        fraud = number % 12 == 5
        user = f"u{random.integers(40)}"
        amount = float(np.round(random.lognormal(6 if fraud else 3, 0.3), 2))
        device = f"stolen{number // 120}" if fraud else f"of-{user}"
        events.append(Event(f"e{number}", user, "purchase", time_ms, amount, device))
    return events


def make_labels(events):
    """Labels each fraud after 1.5 days, every fourth after 4 days, which exceeds the delay.

    Labels every tenth other event as legitimate.
    """
    labels = []
    for number, event in enumerate(events):
        fraud = event.device.startswith("stolen")
        if fraud or number % 10 == 0:
            delay_ms = 4 * DAY_MS if number % 48 == 5 else 3 * DAY_MS // 2
            labels.append(
                {
                    "event_id": event.id,
                    "user_id": event.user,
                    "device_id": event.device,
                    "label": "fraud" if fraud else "legitimate",
                    "analyst": "bank",
                    "event_time": event.time_ms,
                    "time": event.time_ms + delay_ms,
                }
            )
    return labels


def arrivals(events, labels):
    by_id = {event.id: event for event in events}
    label_tokens = [
        Label(by_id[label["event_id"]], label["label"] == "fraud", label["time"])
        for label in labels
    ]
    return sorted(
        [*events, *label_tokens], key=lambda arrival: (arrival.time_ms, isinstance(arrival, Event))
    )


def scoring_rows(arrived):
    """What the backfill writes of the events among the arrivals."""
    rows = [
        {"user_id": event.user, "parts": event_parts(arrived, index)}
        for index, event in enumerate(arrived)
        if isinstance(event, Event)
    ]
    return SCORING_ROWS.convert(pa.RecordBatch.from_pylist(rows, SCORING_ROWS.job_schema))


def write_rows(folder, events, labels, files=3):
    """Writes rows out of order, split over several files."""
    rows = pa.Table.from_batches([scoring_rows(arrivals(events, labels))]).drop_columns("month")
    for number in range(files):
        part = folder / f"month=2024-0{number}"
        part.mkdir(parents=True)
        own = rows.take(np.arange(number, len(rows), files)[::-1])
        pq.write_table(own, part / "part-0.parquet", row_group_size=300)


EVENTS = make_events()
LABELS = make_labels(EVENTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, EVENTS, LABELS)
    return folder


@pytest.fixture(scope="module")
def labelled_events(folder):
    return read_labelled_events(folder, LabelLog.from_records(LABELS))


@pytest.fixture(scope="module")
def trained(labelled_events, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    model = train_on_labels(labelled_events, SPLIT, RULES, out, settings=FAST_SETTINGS)
    assert FraudModel.load(out).version == model.version
    return model


def test_backfill_drops_duplicates_and_adds_the_month():
    first, second = EVENTS[0], EVENTS[40]
    later = second._replace(time_ms=second.time_ms + 32 * DAY_MS)
    duplicated = [first, second, first, later]
    kept = scoring_rows(duplicated).to_pydict()
    assert kept["event_id"] == ["e0", "e40", "e40"]
    assert kept["event_type"] == ["purchase"] * 3
    assert kept["event_ms"] == [first.time_ms, second.time_ms, later.time_ms]
    assert kept["month"] == ["2024-01", "2024-01", "2024-02"]
    assert kept["amount"] == [first.amount, second.amount, second.amount]
    assert kept["parts"] == [event_parts(duplicated, row) for row in (0, 1, 3)]


def test_features_equal_those_of_the_scoring_pipeline(labelled_events):
    names = ["amount", "user_events_7d", "device_frauds_7d", "device_risk_1d", "user_new_device"]
    rows = np.array([1_200, 3, 713, 712])
    arrived = arrivals(EVENTS, LABELS)
    texts = [event_parts(arrived, arrived.index(EVENTS[row])) for row in rows]
    batch = read_rows([EVENTS[row].user for row in rows], texts)
    expected = features_from_lists(parse_lists(batch), DELAY)
    x_WF = labelled_events.features(rows, names, DELAY)
    index = [COLUMN_OF[name] for name in names]
    np.testing.assert_array_equal(x_WF, expected[:, index].astype(np.float32))
    assert x_WF[:, names.index("device_frauds_7d")].any()


def test_model_finds_more_frauds_than_rules_and_reports_its_baselines(trained):
    metadata = trained.metadata
    assert metadata["test"]["average_precision"] > 0.9
    assert metadata["baselines"]["logistic_regression"]["events"] == metadata["test"]["events"]
    assert 0 < metadata["baselines"]["rules"]["average_precision"] < 0.9
    assert set(metadata["thresholds"]) == {"budget_10", "budget_20", "budget_30", "cost"}
    assert trained.reference is not None and trained.delay_days == DELAY
    assert trained.metadata["order"]["chosen"] is False
    assert not set(ORDER_FEATURES) & set(trained.names)
    # There are 60 events a day. Each split ends the delay before the next one.
    parts = [metadata[part]["events"] for part in ("train", "validation", "test")]
    assert parts == [7 * 60, 4 * 60, 5 * 60]
    known = {"given": len(LABELS), "events": len(LABELS), "of_unknown_events": 0}
    assert metadata["labels"] == known


def test_latest_label_before_the_given_time_counts(folder):
    first = LABELS[0] | {"event_id": "e10", "label": "fraud", "time": START_MS + 1_000}
    later = first | {"label": "legitimate", "time": "2024-01-01T00:00:02Z"}
    events = read_labelled_events(folder, LabelLog.from_records([later, first]))
    is_fraud = [events.fraud_N(START_MS + ms)[10] for ms in (1_000, 1_001, 2_000, 2_001)]
    assert is_fraud == [False, True, True, False]
    assert events.fraud_N(START_MS + 1_001).sum() == 1


def test_rows_of_users_who_are_left_out_are_those_that_an_erasure_would_take_out(
    folder, labelled_events, tmp_path
):
    shutil.copytree(folder, tmp_path / "rows")
    gone = {"u3", "u7", "nobody"}
    assert sum(each.erased for each in erase_rows(tmp_path / "rows", gone)) > 50
    labels, names = LabelLog.from_records(LABELS), ["amount", "device_frauds_7d"]
    expected = read_labelled_events(tmp_path / "rows", labels)
    events = read_labelled_events(folder, labels, gone)
    for name in ("time_ms_N", "user_N", "type_N", "amount_N", "label_N", "key_N"):
        np.testing.assert_array_equal(getattr(events, name), getattr(expected, name), name)
    rows = np.arange(0, len(events.time_ms_N), 7)
    np.testing.assert_array_equal(
        events.features(rows, names, DELAY), expected.features(rows, names, DELAY)
    )
    keys = set(events.user_keys())
    assert keys == {user_key(event.user) for event in EVENTS} - {user_key(user) for user in gone}
    assert events.fingerprint() == expected.fingerprint() != labelled_events.fingerprint()


def change_after(after_ms):
    events = [
        event if event.time_ms < after_ms else event._replace(amount=7.0, device="another")
        for event in EVENTS
    ]
    flipped = {"fraud": "legitimate", "legitimate": "fraud"}
    labels = [
        label if label["time"] < after_ms else label | {"label": flipped[label["label"]]}
        for label in LABELS
    ]
    return events, labels


@pytest.mark.parametrize("part", ["validation", "test"])
def test_later_events_and_labels_do_not_change_earlier_splits(trained, tmp_path, part):
    """Changes all events and labels from the start of a split on, including later labels of earlier
    events. The results of the earlier splits stay identical."""
    start_ms = SPLIT.spans_ms[part][0]
    events, labels = change_after(start_ms)
    late_labels = [label for label in labels if label["time"] >= start_ms > label["event_time"]]
    assert len(late_labels) > 5
    write_rows(tmp_path, events, labels)
    changed = read_labelled_events(tmp_path, LabelLog.from_records(labels))
    changed_model = train_on_labels(changed, SPLIT, RULES, settings=FAST_SETTINGS)
    assert trained.booster.save_raw() == changed_model.booster.save_raw()
    assert trained.metadata["train"] == changed_model.metadata["train"]
    assert str(trained.usual) == str(changed_model.usual)
    validation, changed_validation = (
        (each.calibration, each.metadata["thresholds"], each.metadata["validation"], each.reference)
        for each in (trained, changed_model)
    )
    assert (validation == changed_validation) == (part == "test")
    assert trained.metadata["test"] != changed_model.metadata["test"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_start": date(2024, 1, 10)}, "--validation-start 2024-01-12: no days are left"),
        ({"validation_start": date(2024, 1, 17)}, "--test-start 2024-01-18: no days are left"),
        ({"test_end": date(2024, 1, 17)}, "is before --test-start"),
        ({"delay_days": -1.0}, "must not be negative"),
        ({"test_end": date(2024, 1, 27)}, r"so labels .* later than 2024-01-26, 2 days"),
        ({"train_start": date(2024, 1, 9)}, r"the train split, 2024-01-09 .* 3 of them"),
    ],
)
def test_split_that_is_empty_or_has_too_few_or_incomplete_labels_is_rejected(
    labelled_events, changed, message
):
    with pytest.raises(InputError, match=message):
        train_on_labels(labelled_events, replace(SPLIT, **changed), RULES, settings=FAST_SETTINGS)


def test_unusable_rows_or_labels_are_rejected(folder, tmp_path):
    labels = LabelLog.from_records(LABELS)
    with pytest.raises(InputError, match="no events in them"):
        read_labelled_events(tmp_path, labels)
    with pytest.raises(InputError, match="none of the 1 labelled events is in them"):
        read_labelled_events(
            folder, LabelLog.from_records([LABELS[0] | {"event_id": "unheard-of"}])
        )
    with pytest.raises(InputError, match="there are no labels"):
        LabelLog.from_records([])
    pq.write_table(pa.table({"user_id": ["u"], "history": [""]}), tmp_path / "windows.parquet")
    with pytest.raises(InputError, match=r"column event_id is missing; .* --pipeline scoring"):
        read_labelled_events(tmp_path, labels)
    (tmp_path / "windows.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=r"windows\.parquet"):
        read_labelled_events(tmp_path, labels)
    (tmp_path / "windows.parquet").unlink()
    for copy in "a", "b":
        write_rows(tmp_path / copy, EVENTS[:50], [], files=1)
    with pytest.raises(InputError, match="duplicate events"):
        read_labelled_events(tmp_path, labels)


def test_train_command_writes_the_model_and_reports_rejected_labels(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SETTINGS", FAST_SETTINGS)
    file, out = tmp_path / "labels.jsonl", tmp_path / "model"
    file.write_text("".join(json.dumps(label) + "\n" for label in [*LABELS, {"event_id": "e1"}]))
    days = ("train_start", "validation_start", "test_start", "test_end")
    options = {f"--{name.replace('_', '-')}": getattr(SPLIT, name) for name in days}
    options |= {"--rows": folder, "--labels": file, "--delay-days": "2", "--out": out}
    arguments = [str(text) for option in options.items() for text in option]
    result = CliRunner().invoke(app, ["model", "train", "event-risk", *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["version"] == FraudModel.load(out).version
    assert report["rejected_labels"] == 1
    users = {event.user for event in EVENTS}
    trained = trained_users.read(out)
    assert trained is not None and trained.users == len(users)
    assert all(user in trained for user in users) and "nobody" not in trained
    assert "labels.jsonl row" in result.stderr
