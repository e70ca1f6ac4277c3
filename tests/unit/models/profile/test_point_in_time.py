"""No training example sees an event of its own future, and its labels see no other than that.

All that happens after a time is changed or removed; what ends before must stay, bit for bit.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.load.events import START_MS
from benchmarks.load.load import Load
from benchmarks.load.rows import batches
from benchmarks.models.training_rows import as_table
from liveprofile.config import load
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.churn_spend_samples import numbers_at
from models.profile.data.examples import PURCHASE, build, cut, enrich, examples
from models.profile.encoding import Layout, Vocabulary
from models.profile.recipes import recipe
from models.profile.training.train import prepare

HORIZON_DAYS, DECAY_DAYS, MAX_LEN = 3, 30.0, 32
NOW_MS = START_MS + 8 * DAY_MS
RECIPE = dataclasses.replace(
    recipe("general-7-days"),
    horizon_days=HORIZON_DAYS,
    validation_from="2023-11-23",  # NOW_MS
    test_from="2023-11-25",
)
SEEN = ("type_N", "amount_N", "time_ms_N", "bare_N", "scored_N", "row_N", "history_B", "span_ms_B")


@pytest.fixture(scope="module")
def table():
    workload = Load(n=6_000, users=40, zipf=1.05, hours=14 * 24)
    made = batches(workload.messages(), load(window={"length_ms": DAY_MS}), 1_000)
    return pa.concat_tables(map(as_table, made))


def without_future(table):
    return table.filter(pc.less_equal(table["window_end_ms"], NOW_MS))


def with_another_future(table):
    """Other items, everything bought, other users, and sums that can't be."""
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
    return build(streams, Vocabulary(items, 64), Vocabulary(categories, 8), HORIZON_DAYS)


def known(corpus):
    """The windows that end by NOW_MS; users are in the same order in every corpus."""
    return np.flatnonzero(corpus.streams.end_ms_W <= NOW_MS)


def assert_equal(one, other, names):
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@pytest.mark.parametrize("change", CHANGES)
def test_examples_do_not_see_what_comes_later(table, tmp_path, change):
    corpora = [corpus_of(one, tmp_path / "rows.parquet") for one in (table, change(table))]
    windows = [known(corpus) for corpus in corpora]
    assert len(windows[0]) == len(windows[1]) > 200
    assert len(corpora[0].streams.user_W) > len(windows[0]) + 100
    layout = Layout.of(1 + 300 + 64, 1 + 40 + 8, MAX_LEN)
    for enriched_share in (0.0, 0.5):
        seen, laid_out = [], []
        for corpus, own in zip(corpora, windows, strict=True):
            random = np.random.default_rng(1)
            segments = cut(corpus, own, np.full(len(own), 8), MAX_LEN)
            seen.append(enrich(segments, enriched_share, MAX_LEN, random))
            laid_out.append(examples(corpus, seen[-1], layout, DECAY_DAYS, 0.1, random))
        assert_equal(*seen, SEEN)
        for name, one, other in zip(laid_out[0]._fields, *laid_out, strict=True):
            for column, again in zip(*map(_columns, (one, other)), strict=True):
                np.testing.assert_array_equal(column, again, name)


def _columns(field):
    return field if isinstance(field, tuple) else (field,)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_known_of_a_user_does_not_see_what_comes_later(table, tmp_path, change):
    corpora = [corpus_of(one, tmp_path / "rows.parquet") for one in (table, change(table))]
    windows = [known(corpus) for corpus in corpora]
    for name in ("end_ms_W", "added_WS", "sums_WS", "last_purchase_ms_W"):
        one, other = (
            getattr(corpus.streams, name)[own] for corpus, own in zip(corpora, windows, strict=True)
        )
        np.testing.assert_array_equal(one, other, name)
    numbers = [
        numbers_at(corpus, RECIPE, own, corpus.streams.end_ms_W[own])
        for corpus, own in zip(corpora, windows, strict=True)
    ]
    np.testing.assert_array_equal(*numbers)


@pytest.mark.parametrize("change", CHANGES)
def test_labels_that_are_known_do_not_change_later(table, tmp_path, change):
    corpora = [corpus_of(one, tmp_path / "rows.parquet") for one in (table, change(table))]
    told = []
    for corpus in corpora:
        own = known(corpus)
        own = own[corpus.known_labels(own, NOW_MS)]
        told.append((corpus.purchases_W[own], corpus.spend_W[own]))
    assert 20 < np.count_nonzero(told[0][0]) < len(told[0][0])
    for one, other in zip(*told, strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_are_what_is_bought_in_the_horizon_after_the_end(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "rows.parquet")
    streams = corpus.streams
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    for window in range(0, len(streams.user_W), 7):
        end_ms = streams.end_ms_W[window]
        mine = (
            (user_N == streams.user_W[window])
            & (streams.type_N == PURCHASE)
            & (streams.time_ms_N > end_ms)
            & (streams.time_ms_N <= end_ms + HORIZON_DAYS * DAY_MS)
        )
        assert corpus.purchases_W[window] == np.count_nonzero(mine)
        assert corpus.spend_W[window] == pytest.approx(streams.amount_N[mine].sum())


def test_the_vocabulary_is_the_training_part_s(table, tmp_path):
    chosen = []
    for number, one in enumerate((table, with_another_future(table))):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(one, file)
        chosen.append(prepare(RECIPE, file))
    assert chosen[0].parts.train_until_ms == NOW_MS
    assert chosen[0].corpus.streams.items != chosen[1].corpus.streams.items
    assert_equal(*chosen, ("items", "item_counts", "categories", "category_counts"))
