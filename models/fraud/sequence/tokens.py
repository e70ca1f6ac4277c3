"""Converts events with their lists to token sequences, the input of the sequence model.

A token is an event of a list, relative to the scored event. It has F fields, each a row of one
embedding table. An id is encoded only as equal to the scored event's id or not, so the model works
for users, devices and shops that are not in the training data.

Shape suffixes: P tokens of all sequences, end to end; F fields of a token; n sequences; T events of
lists; S lists; L labels; E earlier purchases.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from liveprofile.features.entity import EventLists, TokenLists
from liveprofile.features.entity.columns import type_letter
from liveprofile.features.entity.past_events import PastEvents
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from liveprofile.wire.entity_lists import FRAUD, MISSING, is_event
from liveprofile.wire.scored_events import ENTITY_NAMES
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_LETTERS

SEQUENCE_LENGTH = 32  # newest entries of a list that the model reads
SOURCES = ("user", *ENTITY_NAMES)  # readable lists; a model reads the user's always, and last
_MONDAY = 3  # 1970-01-01 was a Thursday
_LABEL_CODES = 3  # unknown, legitimate, fraud
_AMOUNTS, _RATIOS, _TIMES = 16, 13, 24  # buckets
_BUCKETS_PER_LOG_UNIT = 2  # natural logarithm of amounts, binary of ratios
_RELATIONS = 5  # missing; or another or the same id, each either repeated or new in the list
_FIELDS = {
    "source": len(SOURCES),
    "type_and_label": len(EVENT_TYPES) * _LABEL_CODES,
    "amount": _AMOUNTS,
    "ratio": _RATIOS + 1,  # amount to the list's median; the last bucket: unknown
    "gap": _TIMES + 1,  # since the previous event; the last bucket: no previous event
    "age": _TIMES,  # until the scored event
    "hour": 2 * 24,  # of weekdays, then of weekends
    **{name: _RELATIONS for name in ENTITY_NAMES},  # to the scored event's id
    "user": _RELATIONS,
}
FIELD_OFFSETS = dict(zip(_FIELDS, accumulate(_FIELDS.values(), initial=0), strict=False))
TABLE_ROWS = sum(_FIELDS.values())
assert TABLE_ROWS <= 256  # a field is a byte


class TokenSequences(NamedTuple):
    """n sequences with P tokens in total. The last token of each is the scored event."""

    starts: np.ndarray  # (n + 1,) int64: sequence i is starts[i] to starts[i + 1]
    token_PF: np.ndarray  # uint8: rows of the embedding table

    def take(self, rows: np.ndarray) -> TokenSequences:
        """Returns the sequences of these rows."""
        size = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(size)])
        index_P = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], size)
        return TokenSequences(starts, self.token_PF[index_P])

    @staticmethod
    def concatenate(sequences: list[TokenSequences]) -> TokenSequences:
        size = np.concatenate([np.diff(sequence.starts) for sequence in sequences])
        starts = np.concatenate([[0], np.cumsum(size)])
        return TokenSequences(starts, np.concatenate([sequence.token_PF for sequence in sequences]))


# One arbitrary token.
WARM_UP_TOKENS = TokenSequences(
    np.array([0, 1]), np.array([list(FIELD_OFFSETS.values())], np.uint8)
)


def tokenize(
    rows: EventLists, sources: tuple[str, ...] = ("user",), keep: int = SEQUENCE_LENGTH
) -> TokenSequences:
    """Returns the newest `keep` entries of each list of `sources`, in the order of `sources`.

    The rules are those of the features (liveprofile.features.entity): events are in order of event
    time, none is later than the scored one, the first of duplicates counts, and a label counts from
    its own time on. A row without lists has no tokens.
    """
    sequences = [_tokenize_source(rows, source, keep) for source in sources]
    if len(sequences) == 1:
        return sequences[0]
    size_Sn = np.array([np.diff(sequence.starts) for sequence in sequences])
    starts = np.concatenate([[0], np.cumsum(size_Sn.sum(axis=0))])
    token_PF = np.empty((starts[-1], len(_FIELDS)), np.uint8)
    first_n = starts[:-1]
    for sequence, size_n in zip(sequences, size_Sn, strict=True):
        target_P = np.arange(sequence.starts[-1]) + np.repeat(
            first_n - sequence.starts[:-1], size_n
        )
        token_PF[target_P] = sequence.token_PF
        first_n = first_n + size_n
    return TokenSequences(starts, token_PF)


def _tokenize_source(rows: EventLists, source: str, keep: int) -> TokenSequences:
    lists = rows.user_lists
    if source != "user":
        count, kind = len(rows.event_ms), ENTITY_NAMES.index(source)
        lists = _slice_lists(rows.entity_lists, kind * count, (kind + 1) * count)
    past = PastEvents(_newest_entries(lists, keep), rows.event_ms)
    scored_T = (past.end_S - 1)[past.list_T]  # the scored event: the last of its list
    fields = _fields(past, scored_T)
    names = ENTITY_NAMES if source == "user" else ("user",)
    fields |= {
        name: _relation(past, ids, scored_T) for name, ids in zip(names, past.ids, strict=True)
    }
    token_TF = np.empty((len(past.list_T), len(_FIELDS)), np.uint8)
    for f, (name, first) in enumerate(FIELD_OFFSETS.items()):
        token_TF[:, f] = first + fields.get(name, 0)
    token_TF[:, 0] = SOURCES.index(source)
    return TokenSequences(np.append(past.start_S, len(past.list_T)), token_TF)


def _fields(past: PastEvents, scored_T: np.ndarray) -> dict[str, np.ndarray]:
    """Returns (T,) values of the fields that do not depend on the kind of list."""
    time_T = past.now_ms_S[past.list_T] - past.age_T
    gap_T = np.full(len(time_T), _TIMES)
    follows = np.flatnonzero(past.list_T[1:] == past.list_T[:-1]) + 1
    gap_T[follows] = _octave(time_T[follows] - time_T[follows - 1])
    weekend_T = (time_T // DAY_MS + _MONDAY) % 7 >= 5
    bucket_T = np.log1p(np.maximum(past.amount_T, 0.0)) * _BUCKETS_PER_LOG_UNIT
    return {
        "type_and_label": (past.letter_T - ord(TYPE_LETTERS[0])) * _LABEL_CODES
        + _label_codes(past),
        "amount": np.minimum(bucket_T, _AMOUNTS - 1).astype(np.uint8),
        "ratio": _ratio(past, scored_T),
        "gap": gap_T,
        "age": _octave(past.age_T),
        "hour": time_T // HOUR_MS % 24 + 24 * weekend_T,
    }


def _octave(ms_T: np.ndarray) -> np.ndarray:
    """Returns (T,) the octave of a duration in seconds."""
    return np.minimum(np.log2(1.0 + ms_T / SECOND_MS), _TIMES - 1).astype(np.uint8)


def _ratio(past: PastEvents, scored_T: np.ndarray) -> np.ndarray:
    """Returns (T,) buckets of a purchase's amount to the median of the list's earlier purchases."""
    is_purchase_T = (past.letter_T == type_letter("purchase")) & (past.amount_T > 0)
    earlier_E = np.flatnonzero(is_purchase_T & (np.arange(len(is_purchase_T)) != scored_T))
    if not len(earlier_E):
        return np.full(len(is_purchase_T), _RATIOS)
    list_E = past.list_T[earlier_E]
    amount_E = past.amount_T[earlier_E[np.lexsort((past.amount_T[earlier_E], list_E))]]
    count_S = np.bincount(list_E, minlength=len(past.now_ms_S))
    median_index_S = np.cumsum(count_S) - count_S + np.maximum(count_S - 1, 0) // 2
    median_S = amount_E[np.minimum(median_index_S, len(amount_E) - 1)]
    known_T = is_purchase_T & (count_S > 0)[past.list_T]
    ratio_T = np.where(known_T, past.amount_T / median_S[past.list_T], 1.0)
    index_T = np.rint(np.log2(ratio_T) * _BUCKETS_PER_LOG_UNIT) + _RATIOS // 2
    return np.where(known_T, np.clip(index_T, 0, _RATIOS - 1), _RATIOS).astype(np.uint8)


def _label_codes(past: PastEvents) -> np.ndarray:
    """Returns (T,) codes of the event's latest label: 0 no label, 1 legitimate, 2 fraud."""
    lists = past.lists
    label_code_T = np.zeros(len(past.list_T), np.uint8)
    label_L = np.flatnonzero(~is_event(lists.letter))
    if not len(label_L):  # most batches have no labels
        return label_code_T
    list_L = np.searchsorted(lists.starts, label_L, side="right") - 1
    known_L = lists.time_ms[label_L] <= past.now_ms_S[list_L]
    order = np.argsort(lists.time_ms[label_L[known_L]], kind="stable")
    label_L, list_L = label_L[known_L][order], list_L[known_L][order]
    # np.unique returns the first of equal keys, so the reversed order yields the latest label.
    reversed_key_L = _event_key(list_L, lists.event[label_L])[::-1]
    key_L, reverse_index_L = np.unique(reversed_key_L, return_index=True)
    fraud_L = (lists.letter[label_L] == ord(FRAUD))[::-1][reverse_index_L]
    key_T = _event_key(past.list_T, past.event_T)
    index_T = np.searchsorted(key_L, key_T)
    matched = np.flatnonzero(np.append(key_L, -1)[index_T] == key_T)
    label_code_T[matched] = 1 + fraud_L[index_T[matched]]
    return label_code_T


def _event_key(list_T: np.ndarray, event_T: np.ndarray) -> np.ndarray:
    return (list_T.astype(np.int64) << 32) + (event_T.astype(np.int64) & 0xFFFFFFFF)


def _relation(past: PastEvents, id_T: np.ndarray, scored_T: np.ndarray) -> np.ndarray:
    """Returns (T,) 0 for a missing id, else 1, + 2 if it is the scored event's, + 1 if new."""
    first_T, _ = past.first_and_last_by_key(id_T)
    relation_T = 1 + 2 * (id_T == id_T[scored_T]) + first_T
    return np.where(id_T == MISSING, 0, relation_T)


def _slice_lists(lists: TokenLists, first: int, end: int) -> TokenLists:
    """Returns the lists from `first` up to, but not including, `end`."""
    starts = lists.starts[first : end + 1]
    return lists.take(slice(starts[0], starts[-1]), starts - starts[0])


def _newest_entries(lists: TokenLists, keep: int) -> TokenLists:
    """Returns the last `keep` entries of each list in order of arrival."""
    size_S = np.diff(lists.starts)
    if (size_S <= keep).all():
        return lists
    return lists.ending_at(lists.starts[1:], np.minimum(size_S, keep))
