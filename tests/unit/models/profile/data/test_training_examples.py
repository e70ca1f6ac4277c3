"""Training examples: the same inputs as serving, labels, and augmentation."""

import numpy as np
import pytest

from liveprofile.events.window import parse_windows
from liveprofile.privacy.trained_users import user_key
from liveprofile.wire.histories import read_histories
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile import checkpoint
from models.profile.data import training_rows
from models.profile.data.examples import augment, build_batch, build_corpus, slice_sequences
from models.profile.data.moments import user_features_at
from models.profile.encoding import Vocabulary
from tests.unit.models.profile.miniature import MINIATURE, job_batches
from udfs.profile import assemble


@pytest.mark.slow
def test_serving_encodes_a_window_as_training_did(
    miniature_model, miniature_rows, miniature_checkpoint
):
    model = miniature_model
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(
        streams,
        Vocabulary(model.items, MINIATURE.item_buckets),
        Vocabulary(model.categories, MINIATURE.category_buckets),
        7,
    )
    window = int(np.flatnonzero(corpus.position_W == 12)[0])
    layout = checkpoint.load(miniature_checkpoint[0])[0].shape.layout
    sequences = slice_sequences(corpus, np.array([window]), np.array([8]), 32)
    expected = build_batch(corpus, sequences, layout, 30.0)

    def tokens(first, last):
        return [
            Token(
                int(streams.time_ms_N[n]),
                int(streams.type_N[n]),
                streams.items[streams.item_N[n]],
                streams.categories[streams.category_N[n]],
                float(streams.amount_N[n]),
            )
            for n in range(streams.first_W[first], streams.last_W[last])
        ]

    history, window_tokens = tokens(window - 8, window - 1), tokens(window, window)
    encoder = model._encoder
    indexed = encoder.index_tokens(TokenColumns.of([history]), TokenColumns.of([window_tokens]))
    batch = encoder.encode(indexed, np.array([0]), (32,))
    np.testing.assert_array_equal(batch.embedding_rows_P7, expected.embedding_rows_P7)
    np.testing.assert_allclose(
        batch.repeat_counts_BC,
        expected.category_repeat_counts.dense(1, encoder.categories.rows),
        1e-6,
    )


def test_serving_computes_the_user_features_of_training(miniature_rows):
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1), 7)
    windows = np.arange(len(streams.user_W))
    in_training = user_features_at(corpus, MINIATURE, windows, streams.end_ms_W)
    served = []
    for batch in job_batches():
        parsed = parse_windows(batch.events)[0]
        baselines = assemble.read_baselines(
            batch.added, batch.sums, batch.window_start_ms, batch.window_end_ms, 30.0
        )
        histories = read_histories(
            batch.history, batch.purchases, batch.window_start_ms, MINIATURE.history_windows
        )
        inputs = (batch.user_id, batch.window_start_ms, batch.window_end_ms, parsed, histories)
        served.append(assemble.numeric_inputs(assemble.ProfileInputs(*inputs, *baselines))[1])
    served = np.concatenate(served)
    assert len(served) == len(in_training)
    actual, expected = (table[np.lexsort(table.round(4).T)] for table in (served, in_training))
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)


def test_labels_cover_the_horizon_after_the_window(miniature_rows):
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1), 7)
    users = sorted((f"u{user}" for user in range(16)), key=user_key)
    first, last = (
        np.flatnonzero(streams.user_W == users.index(user))[index]
        for user, index in (("u0", 0), ("u12", -1))
    )
    assert corpus.purchases_W[last] == 0 and corpus.spend_W[last] == 0
    assert corpus.purchases_W[last - 1] == 4
    # Days 2, 4 and 6 after a window that ends on day 1 are within its seven days.
    assert corpus.purchases_W[first] == 12
    assert corpus.spend_W[first] == pytest.approx(3 * (10 + 12 + 10 + 12))


def test_augmented_sequences_have_every_event_type_in_order_of_time(miniature_rows):
    streams = training_rows.read(miniature_rows)
    corpus = build_corpus(streams, Vocabulary(["i1-0"], 4), Vocabulary(["c1"], 2), 7)
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
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1), 7)
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
