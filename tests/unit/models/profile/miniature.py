"""A miniature shop, recipe and model inputs for the tests of the user model."""

import dataclasses
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

import cli.learning.train  # noqa: F401 (its commands exist before a test changes the recipes)
from benchmarks.load.workload import EventMessage
from cli.main import app
from liveprofile.settings import load
from liveprofile.toml_text import to_toml
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MemoryToken, of_windows
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT, TYPE_INDEX, Token
from liveprofile.wire.training_rows import PROFILE
from models.profile import user_features
from models.profile.recipes import recipe
from models.profile.training.train import train
from tests.support.rows.profile_input import batches

FIRST_DAY_MS = 1_483_228_800_000  # 2017-01-01
PURCHASE = TYPE_INDEX["purchase"]
MINIATURE = dataclasses.replace(
    recipe("general-7-days"),
    name="miniature",
    epochs=6,
    windows_per_epoch=400,
    validation_windows=60,
    batch_rows=32,
    learning_rate=1e-2,
    item_negatives=16,
    item_buckets=16,
    category_buckets=8,
    enriched_share=0.1,
    short_history_share=0.1,
    dim=16,
    curve_moments=12,
    curve_epochs=2,
)


def run(command, *arguments, **paths):
    """The result of a command line. paths: values of options, whose names lack the dashes."""
    options = [text for name, value in paths.items() for text in (f"--{name}", str(value))]
    return CliRunner().invoke(app, [*command.split(), *arguments, *options])


def purchase_event(user, day, rank, has_category=True):
    """The rank-th purchase of a day. Users alternate between two of six categories each."""
    category = (user + 2 * (rank % 2)) % 6
    return {
        "event_id": f"{user}-{day}-{rank}",
        "user_id": f"u{user}",
        "event_type": "purchase",
        "event_time": FIRST_DAY_MS + day * DAY_MS + 600_000 * (rank + 1),
        "item_id": f"i{category}-{rank % 3}",
        "category_id": f"c{category}" if has_category else "",
        "price": 10 + category,
    }


def job_batches(users=16, days=40, has_categories=True):
    """The purchases as the job's operator receives them. Users from 12 on churn on day 20."""
    events = [
        purchase_event(user, day, rank, has_categories)
        for day in range(0, days, 2)
        for rank in range(4)
        for user in range(users)
        if user < 12 or day < 20
    ]
    return daily_batches(EventMessage(b"", orjson.dumps(event)) for event in events)


def daily_batches(messages):
    """The windows of a day, as the job's operator receives them."""
    return batches(messages, load(window={"length_ms": DAY_MS}), batch_rows=1_000)


def rows_table(parts):
    """The training rows of the operator's batches."""
    return pa.concat_tables(map(as_table, parts))


def as_table(batch):
    """Training rows with the columns of a backfill."""
    columns = {**batch._asdict(), "added": list(batch.added), "sums": list(batch.sums)}
    return pa.table({name: columns[name] for name in PROFILE.names})


def write_rows(folder, users=16, days=40, has_categories=True):
    """Writes the training rows of `job_batches` to a new folder and returns the folder."""
    folder.mkdir()
    table = rows_table(job_batches(users, days, has_categories))
    # Newest first, because the SQL does not encode events in order of time.
    newest_first = [EVENT.join(reversed(row.split(EVENT))) for row in table["events"].to_pylist()]
    place = table.schema.get_field_index("events")
    pq.write_table(table.set_column(place, "events", [newest_first]), folder / "part-0.parquet")
    return folder


def write_params(file, wanted):
    """The file of --params that makes `general-7-days` the recipe `wanted`; returns the file."""
    base = dataclasses.asdict(recipe("general-7-days"))
    changed = {k: v for k, v in dataclasses.asdict(wanted).items() if k != "name" and v != base[k]}
    file.write_text(to_toml(changed))
    return file


def purchase_token(step, category=1, rank=0, kind=PURCHASE):
    """A purchase `step` times ten minutes after the start of day 30."""
    time_ms = FIRST_DAY_MS + 30 * DAY_MS + 600_000 * step
    return Token(time_ms, kind, f"i{category}-{rank % 3}", f"c{category}", 10.0 + category)


def usual_tokens(user=1, events=8, start=0):
    """Purchases in the order that the user's training data has."""
    return [purchase_token(start + n, (user + 2 * (n % 2)) % 6, n) for n in range(events)]


def random_tokens(count=40, seed=3):
    """Histories and windows of `count` users, of random lengths."""
    random = np.random.default_rng(seed)
    histories = [usual_tokens(user % 6, int(random.integers(0, 50))) for user in range(count)]
    windows = [
        usual_tokens(user % 6, int(random.integers(1, 40)), len(history))
        for user, history in enumerate(histories)
    ]
    return histories, windows


def memories_of(histories, windows):
    """Memories of two windows each: the history, if there is any, and the window."""

    def window(tokens, end_ms):
        return end_ms, [MemoryToken(t.type_index, t.item, t.category) for t in tokens]

    return of_windows(
        [
            [window(history, DAY_MS)] * bool(history) + [window(tokens, 3 * DAY_MS)]
            for history, tokens in zip(histories, windows, strict=True)
        ]
    )


def score(model, histories, windows):
    """Scores as a job would, with every window ending at its last event."""
    tokens = TokenColumns.of(histories), TokenColumns.of(windows)
    features = [
        np.log1p(
            np.full(
                (len(rows), len(user_features.FEATURE_NAMES)), [[len(row)] for row in rows] or 0
            )
        )
        for rows in (histories, [h + w for h, w in zip(histories, windows, strict=True)])
    ]
    numbers = (side.astype(np.float32) for side in features)
    return model.score(*tokens, *numbers, (), memories_of(histories, windows))


def assert_scores_equal(actual, expected, tolerance=1e-5):
    for name, value in actual._asdict().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(
                value, getattr(expected, name), tolerance, tolerance, err_msg=name
            )
    for name, value in actual.value_curves.values_BHK.items():
        other = expected.value_curves.values_BHK[name]
        np.testing.assert_allclose(value, other, atol=0.011 if tolerance else 0, err_msg=name)


SHORT = dataclasses.replace(MINIATURE, epochs=2, windows_per_epoch=200, continue_epochs=1)


def write_trained_shop(folder: Path) -> Path:
    """Rows of 40 days ("early") and of 80 ("all"), and a model trained on the first 28 days."""
    write_rows(folder / "early")
    write_rows(folder / "all", days=80)
    train(SHORT, folder / "early", folder / "model")
    return folder
