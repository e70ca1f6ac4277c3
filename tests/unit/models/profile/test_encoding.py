"""Encoding of tokens: truncation, hashing, buckets, and the layout of padded batches."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile.encoding import (
    AMOUNT_BUCKETS,
    BOS_TYPE,
    FIELDS,
    GAP_BUCKETS,
    MAX_CACHED_IDS,
    Encoder,
    Vocabulary,
    amount_bucket,
    hash_row,
    kept_token_counts,
)

MONDAY_MS = 1_483_315_200_000  # 2017-01-02 00:00 UTC


def event(minute=0, item="i1", category="c1", kind=0, amount=0.0):
    return Token(MONDAY_MS + 60_000 * minute, kind, item, category, amount)


def encoder(max_len=8):
    return Encoder(Vocabulary(["i1", "i2"], 4), Vocabulary(["c1"], 2), max_len, 30.0)


def encode(histories, windows, length_buckets):
    tokens = encoder().index_tokens(TokenColumns.of(histories), TokenColumns.of(windows))
    return encoder().encode(tokens, np.arange(len(histories)), length_buckets)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 40))
def test_long_window_leaves_history_a_quarter_of_the_positions(histories, windows, max_len):
    counts = kept_token_counts(np.array([histories]), np.array([windows]), max_len)
    history, window = (int(count[0]) for count in counts)
    capacity = max_len - 1
    assert history + window == min(histories + windows, capacity)
    assert min(histories, capacity // 4) <= history <= histories
    assert window == min(windows, capacity - min(histories, capacity // 4))


def test_too_many_tokens_keep_the_newest():
    history = [event(minute, amount=1.0 + minute) for minute in range(9)]
    window = [event(minute, amount=1.0 + minute) for minute in range(9, 20)]
    batch = encode([history], [window], (8,))
    assert batch.groups == [(0, 1, 8)]
    amounts = (batch.embedding_rows_P7 - encoder().layout.offsets)[1:, FIELDS.index("amount")]
    kept = np.array([9.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0])
    assert amounts.tolist() == amount_bucket(kept).tolist()


def test_id_maps_to_its_name_row_a_hash_bucket_or_row_zero():
    vocabulary = Vocabulary(["a", "b"], 4)
    assert vocabulary.rows == 7
    assert vocabulary.indexes(["", "a", "b", "a"]).tolist() == [0, 1, 2, 1]
    unknown = int(vocabulary.indexes(["never seen"])[0])
    assert 3 <= unknown < 7
    assert unknown == hash_row("never seen", 2, 4)
    assert 3 <= hash_row("\ud800", 2, 4) < 7


def test_another_process_hashes_ids_to_the_same_rows():
    code = """
from models.profile.encoding import hash_row
print([hash_row(f"x{i}", 9, 1024) for i in range(9)])
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([hash_row(f"x{i}", 9, 1024) for i in range(9)])


def test_many_unknown_ids_leave_cache_bounded():
    vocabulary = Vocabulary(["a"], 8)
    vocabulary.indexes([str(i) for i in range(MAX_CACHED_IDS + 10)])
    assert len(vocabulary.index) <= MAX_CACHED_IDS + 2
    assert vocabulary.indexes(["a", ""]).tolist() == [1, 0]


def test_rows_are_laid_out_with_bos_and_padding():
    history = [event(0), event(1, "i2", "new", 3, 9.5)]
    window = [event(90, "", "")]
    batch = encode([[], history], [[event(5)], window], (8,))
    assert batch.groups == [(0, 2, 4)]
    columns = dict(zip(FIELDS, (batch.embedding_rows_P7 - encoder().layout.offsets).T, strict=True))
    assert columns["type"][[0, 4]].tolist() == [BOS_TYPE, BOS_TYPE]
    assert columns["amount"][[0, 4]].tolist() == [AMOUNT_BUCKETS, AMOUNT_BUCKETS + 6]
    assert columns["gap"][0] == GAP_BUCKETS and columns["gap"][4] == GAP_BUCKETS + 23
    assert columns["item"][[1, 5, 6, 7]].tolist() == [1, 1, 2, 0]
    assert columns["category"][[1, 5, 7]].tolist() == [1, 1, 0]
    assert columns["category"][6] in (2, 3)
    assert columns["position"][[4, 5, 6, 7]].tolist() == [0, 1, 2, 3]
    assert columns["hour"][[5, 7]].tolist() == [0, 1]
    assert columns["gap"][[1, 5]].tolist() == [0, 0] and columns["gap"][6] > 1
    assert batch.before_B.tolist() == [0, 6] and batch.after_B.tolist() == [1, 7]
    assert batch.scored_S.tolist() == [0, 6]
    assert batch.category_S.tolist() == [1, 0] and batch.type_S.tolist() == [0, 0]


def test_rows_of_different_lengths_are_grouped_by_length_bucket():
    histories = [[event(i) for i in range(size)] for size in (0, 1, 2, 6, 6)]
    windows = [[event(99)]] * 5
    batch = encode(histories, windows, (3, 5))
    assert batch.groups == [(0, 2, 3), (6, 1, 4), (10, 2, 8)]
    assert batch.after_B.tolist() == [1, 5, 9, 17, 25]
