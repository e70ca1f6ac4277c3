"""Training examples depend on no event after their window, and labels on no event past the horizon.

The tests change or remove everything after a time. Examples of windows that end before it must not
change by a bit.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.load.rows import as_table, batches
from benchmarks.load.workload import START_MS, Workload
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.examples import (
    PURCHASE,
    augment,
    build_batch,
    build_corpus,
    slice_sequences,
)
from models.profile.data.moments import user_features_at
from models.profile.data.prepared import prepare
from models.profile.encoding import Layout, Vocabulary
from models.profile.recipes import recipe

HORIZON_DAYS, DECAY_DAYS, MAX_LEN = 3, 30.0, 32
NOW_MS = START_MS + 8 * DAY_MS
RECIPE = dataclasses.replace(
    recipe("general-7-days"),
    horizon_days=HORIZON_DAYS,
    validation_from="2023-11-23",  # NOW_MS
    test_from="2023-11-25",
)
SEQUENCE_FIELDS = (
    "type_N",
    "amount_N",
    "time_ms_N",
    "without_ids_N",
    "scored_N",
    "row_N",
    "history_B",
    "span_ms_B",
)


@pytest.fixture(scope="module")
def table():
    workload = Workload(n=6_000, users=40, zipf=1.05, hours=14 * 24)
    made = batches(workload.messages(), load(window={"length_ms": DAY_MS}), 1_000)
    return pa.concat_tables(map(as_table, made))


def without_future(table):
    return table.filter(pc.less_equal(table["window_end_ms"], NOW_MS))


def with_another_future(table):
    """Replaces items, event types and most users after NOW_MS, and makes the sums invalid."""
    future = table.filter(pc.greater(table["window_end_ms"], NOW_MS)).to_pylist()
    for number, row in enumerate(future):
        row["events"] = (
            row["events"]
            .replace('"item_id":"i', '"item_id":"a')
            .replace('"event_type":"view"', '"event_type":"purchase"')
        )
        row["sums"] = [-1e9 * number for _ in row["sums"]]
        row["user_id"] += "-another" if number % 3 else ""
    return pa.concat_tables(
        [without_future(table), pa.Table.from_pylist(future, schema=table.schema)]
    )


CHANGES = [without_future, with_another_future]


def corpus_of(table, file):
    pq.write_table(table, file)
    streams = training_rows.read(file)
    items = [f"i{number:06}" for number in range(300)]
    categories = [f"c{number:03}" for number in range(40)]
    return build_corpus(streams, Vocabulary(items, 64), Vocabulary(categories, 8), HORIZON_DAYS)


def windows_until_now(corpus):
    """The windows that end by NOW_MS. All corpora have their users in the same order."""
    return np.flatnonzero(corpus.streams.end_ms_W <= NOW_MS)


def assert_fields_equal(first, second, names):
    for name in names:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_future_leaves_training_batches_unchanged(table, tmp_path, change):
    corpora = [corpus_of(rows, tmp_path / "rows.parquet") for rows in (table, change(table))]
    windows = [windows_until_now(corpus) for corpus in corpora]
    assert len(windows[0]) == len(windows[1]) > 200
    assert len(corpora[0].streams.user_W) > len(windows[0]) + 100
    layout = Layout.from_sizes(1 + 300 + 64, 1 + 40 + 8, MAX_LEN)
    for enriched_share in (0.0, 0.5):
        augmented, batches = [], []
        for corpus, own in zip(corpora, windows, strict=True):
            random = np.random.default_rng(1)
            sequences = slice_sequences(corpus, own, np.full(len(own), 8), MAX_LEN)
            augmented.append(augment(sequences, enriched_share, MAX_LEN, random))
            batches.append(build_batch(corpus, augmented[-1], layout, DECAY_DAYS, 0.1, random))
        assert_fields_equal(*augmented, SEQUENCE_FIELDS)
        for name, first, second in zip(batches[0]._fields, *batches, strict=True):
            for column, other in zip(_columns(first), _columns(second), strict=True):
                np.testing.assert_array_equal(column, other, name)


def _columns(field):
    return field if isinstance(field, tuple) else (field,)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_future_leaves_user_features_unchanged(table, tmp_path, change):
    corpora = [corpus_of(rows, tmp_path / "rows.parquet") for rows in (table, change(table))]
    windows = [windows_until_now(corpus) for corpus in corpora]
    for name in ("end_ms_W", "added_WS", "sums_WS", "last_purchase_ms_W"):
        first, second = (
            getattr(corpus.streams, name)[own] for corpus, own in zip(corpora, windows, strict=True)
        )
        np.testing.assert_array_equal(first, second, name)
    features = [
        user_features_at(corpus, RECIPE, own, corpus.streams.end_ms_W[own])
        for corpus, own in zip(corpora, windows, strict=True)
    ]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_future_leaves_known_labels_unchanged(table, tmp_path, change):
    corpora = [corpus_of(rows, tmp_path / "rows.parquet") for rows in (table, change(table))]
    labels = []
    for corpus in corpora:
        own = windows_until_now(corpus)
        own = own[corpus.has_known_labels(own, NOW_MS)]
        labels.append((corpus.purchases_W[own], corpus.spend_W[own]))
    assert 20 < np.count_nonzero(labels[0][0]) < len(labels[0][0])
    for first, second in zip(*labels, strict=True):
        np.testing.assert_array_equal(first, second)


def test_labels_are_the_purchases_within_the_horizon_after_window_end(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "rows.parquet")
    streams = corpus.streams
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    for window in range(0, len(streams.user_W), 7):
        end_ms = streams.end_ms_W[window]
        in_horizon = (
            (user_N == streams.user_W[window])
            & (streams.type_N == PURCHASE)
            & (streams.time_ms_N > end_ms)
            & (streams.time_ms_N <= end_ms + HORIZON_DAYS * DAY_MS)
        )
        assert corpus.purchases_W[window] == np.count_nonzero(in_horizon)
        assert corpus.spend_W[window] == pytest.approx(streams.amount_N[in_horizon].sum())


def test_changed_future_leaves_vocabularies_unchanged(table, tmp_path):
    prepared = []
    for number, rows in enumerate((table, with_another_future(table))):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(rows, file)
        prepared.append(prepare(RECIPE, file))
    assert prepared[0].split.train_until_ms == NOW_MS
    assert prepared[0].corpus.streams.items != prepared[1].corpus.streams.items
    assert_fields_equal(*prepared, ("items", "item_counts", "categories", "category_counts"))
