"""Training examples: no event after their window, the inputs of serving, labels, augmentation.

Tests of the future change or remove everything after a time. Examples of windows that end before it
must not change by a bit.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.sparse import issparse

from benchmarks.load.workload import START_MS, Workload
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.examples import (
    PURCHASE,
    augment,
    build_batch,
    build_corpus,
    slice_sequences,
)
from models.profile.data.moments import Moments, outcomes, user_features_at
from models.profile.data.prepared import prepare
from models.profile.encoding import Encoder, Layout, Vocabulary
from models.profile.evaluation.served import _tokens
from models.profile.recipes import recipe
from tests.unit.models.profile.miniature import MINIATURE, daily_batches, job_batches, rows_table
from udfs.profile.inputs import read_inputs

HORIZON_DAYS, DECAY_DAYS, MAX_LEN = 3, 30.0, 32
NOW_MS = START_MS + 8 * DAY_MS
RECIPE = dataclasses.replace(
    recipe("general-7-days"),
    horizon_days=HORIZON_DAYS,
    validation_from="2023-11-23",  # NOW_MS
    test_from="2023-11-25",
)


@pytest.fixture(scope="module")
def table():
    workload = Workload(n=6_000, users=40, zipf=1.05, hours=14 * 24)
    return rows_table(daily_batches(workload.messages()))


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


@pytest.fixture(scope="module", params=[without_future, with_another_future])
def both(request, table, tmp_path_factory):
    """The corpus, the one with a changed future, and the windows of each that end before it."""
    file = tmp_path_factory.mktemp("rows") / "rows"
    corpora = [corpus_of(rows, file) for rows in (table, request.param(table))]
    windows = [np.flatnonzero(corpus.streams.end_ms_W <= NOW_MS) for corpus in corpora]
    assert len(windows[0]) == len(windows[1]) > 200  # users are in the same order
    assert len(corpora[0].streams.user_W) > len(windows[0]) + 100
    return list(zip(corpora, windows, strict=True))


def corpus_of(table, file):
    pq.write_table(table, file)
    streams = training_rows.read(file)
    items = [f"i{number:06}" for number in range(300)]
    categories = [f"c{number:03}" for number in range(40)]
    return build_corpus(streams, Vocabulary(items, 64), Vocabulary(categories, 8))


def assert_equal(first, second):
    for name, column, other in zip(first._fields, first, second, strict=True):
        if name not in ("source_N", "history_first_B", "history_end_B"):  # places in the corpus
            if issparse(column):
                column, other = column.toarray(), other.toarray()
            np.testing.assert_array_equal(column, other, name)


@pytest.mark.parametrize("enriched_share", [0.0, 0.5])
def test_changed_future_leaves_training_batches_unchanged(both, enriched_share):
    layout = Layout.from_sizes(1 + 300 + 64, 1 + 40 + 8, MAX_LEN)
    made = []
    for corpus, own in both:
        random = np.random.default_rng(1)
        sequences = slice_sequences(corpus, own, np.full(len(own), 8), MAX_LEN)
        sequences = augment(sequences, enriched_share, MAX_LEN, random)
        made.append((sequences, build_batch(corpus, sequences, layout, DECAY_DAYS, 0.1, random)))
    for first, second in zip(*made, strict=True):
        assert_equal(first, second)


def test_changed_future_leaves_user_features_and_known_outcomes_unchanged(both):
    found = []
    for corpus, own in both:
        streams, end_ms = corpus.streams, corpus.streams.end_ms_W[own]
        is_known = end_ms + HORIZON_DAYS * DAY_MS <= NOW_MS
        known = outcomes(streams, Moments(own[is_known], end_ms[is_known]), HORIZON_DAYS)
        names = ("end_ms_W", "added_WS", "sums_WS", "last_purchase_ms_W")
        columns = (getattr(streams, name)[own] for name in names)
        found.append([*columns, user_features_at(corpus, RECIPE, own, end_ms), *known])
    churned_M = found[0][-3]
    assert 20 < np.count_nonzero(churned_M) < len(churned_M) - 20
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_outcomes_are_the_purchases_within_the_horizon(table, tmp_path):
    streams = corpus_of(table, tmp_path / "rows.parquet").streams
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    windows = np.arange(0, len(streams.user_W), 7)
    found = outcomes(streams, Moments(windows, streams.end_ms_W[windows]), HORIZON_DAYS)
    for window, churned, spend, days in zip(windows, *found, strict=True):
        wait_ms = streams.time_ms_N - streams.end_ms_W[window]
        bought = (user_N == streams.user_W[window]) & (streams.type_N == PURCHASE)
        bought &= (wait_ms > 0) & (wait_ms <= HORIZON_DAYS * DAY_MS)
        assert churned == (not bought.any())
        assert spend == pytest.approx(streams.amount_N[bought].sum())
        assert days == wait_ms[bought].min(initial=HORIZON_DAYS * DAY_MS) / DAY_MS


def test_changed_future_leaves_vocabularies_unchanged(table, tmp_path):
    prepared = []
    for number, rows in enumerate((table, with_another_future(table))):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(rows, file)
        prepared.append(prepare(RECIPE, file))
    assert prepared[0].split.train_until_ms == NOW_MS
    assert prepared[0].corpus.streams.items != prepared[1].corpus.streams.items
    for name in ("items", "item_counts", "categories", "category_counts"):
        np.testing.assert_array_equal(*(getattr(data, name) for data in prepared), name)


def test_serving_encodes_windows_as_training_does(miniature_rows):
    streams = training_rows.read(miniature_rows)
    vocabularies = Vocabulary(streams.items[:5], 16), Vocabulary(streams.categories[:4], 8)
    corpus, encoder = build_corpus(streams, *vocabularies), Encoder(*vocabularies, 32, 30.0)
    for window in np.flatnonzero(corpus.position_W % 6 == 1):
        first, of_row = window - min(8, corpus.position_W[window]), np.array([window])
        sequences = slice_sequences(corpus, of_row, np.array([8]), 32)
        expected = build_batch(corpus, sequences, encoder.layout, 30.0)
        tokens = encoder.index_tokens(
            _tokens(streams, np.array([first]), of_row), _tokens(streams, of_row, of_row + 1)
        )
        batch = encoder.encode(tokens, np.array([0]), (32,))
        np.testing.assert_array_equal(batch.embedding_rows_P7, expected.embedding_rows_P7)
        counts_BC = expected.category_repeat_counts.toarray()
        np.testing.assert_allclose(batch.repeat_counts_BC, counts_BC, 1e-6)


def test_serving_computes_the_user_features_of_training(miniature_rows):
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1))
    windows = np.arange(len(streams.user_W))
    in_training = user_features_at(corpus, MINIATURE, windows, streams.end_ms_W)
    reads = SimpleNamespace(
        modalities=frozenset(), decay_days=30.0, history_windows=MINIATURE.history_windows
    )
    served = []
    for batch in job_batches():
        served.append(read_inputs(batch, reads).matrix_after)
    served = np.concatenate(served)
    assert len(served) == len(in_training)
    actual, expected = (table[np.lexsort(table.round(4).T)] for table in (served, in_training))
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)


def test_augmented_sequences_have_every_event_type_in_order_of_time(miniature_rows):
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(streams, Vocabulary(["i1-0"], 4), Vocabulary(["c1"], 2))
    windows = np.arange(len(streams.user_W))
    plain = slice_sequences(corpus, windows, np.full(len(windows), 8), 32)
    augmented = augment(plain, 1.0, 32, np.random.default_rng(0))
    assert set(augmented.type_N.tolist()) == set(range(12))
    assert np.bincount(augmented.row_N).max() == 31
    assert (augmented.history_B >= plain.history_B).all()
    same_row = np.diff(augmented.row_N) == 0
    assert (np.diff(augmented.time_ms_N)[same_row] > 0).all()
    assert set(augmented.row_N[augmented.scored_N]) == set(windows)


def test_training_draws_the_order_of_events_of_one_time(miniature_rows):
    streams = training_rows.read(miniature_rows)
    # All events of a window at one time, as the lines of a receipt.
    sizes = streams.last_W - streams.first_W
    time_ms = np.repeat(streams.time_ms_N[streams.first_W], sizes)
    streams = streams._replace(time_ms_N=time_ms)
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1))
    windows = np.flatnonzero(corpus.position_W >= 8)[:40]
    past = np.full(len(windows), 8)
    random = np.random.default_rng(1)
    plain = slice_sequences(corpus, windows, past, 64)
    first, second = (slice_sequences(corpus, windows, past, 64, random) for _ in range(2))
    assert (first.source_N != second.source_N).mean() > 0.3
    for sequences in (first, second):
        np.testing.assert_array_equal(sequences.time_ms_N, plain.time_ms_N)
        for row in range(len(windows)):
            own, expected = (
                np.sort(each.source_N[each.row_N == row]) for each in (sequences, plain)
            )
            np.testing.assert_array_equal(own, expected)
    # Where not all tokens fit, each of the oldest time has the same chance to be kept.
    kept = [slice_sequences(corpus, windows[:1], past[:1], 8, random).source_N for _ in range(60)]
    window_tokens = np.arange(streams.first_W[windows[0]], streams.last_W[windows[0]])
    assert len(np.unique(np.concatenate(kept))) > 7
    assert np.isin(np.unique(np.concatenate(kept))[-len(window_tokens) :], window_tokens).all()
