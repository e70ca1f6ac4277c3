"""Events with their lists as sequences of tokens, which the sequence model reads (event_sequence).

A token is an event of a list as seen from the event that is scored, in F fields, each a row of one
table: ids enter as whether they are the scored event's, never as themselves, so that what is learnt
holds for users, devices and shops that training has not seen.

Shape suffixes: P tokens of all sequences, end to end; F fields of a token; n sequences; T events of
lists; S lists.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from liveprofile.features.entity import Rows, TokenLists
from liveprofile.features.entity.columns import letter
from liveprofile.features.entity.lists import ENTITIES, FRAUD, MISSING, is_event
from liveprofile.features.entity.past import Past
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_LETTERS

KEEP = 32  # newest entries of a list that are read
SOURCES = ("user", *ENTITIES)  # lists that can be read; the user's always is, and comes last
_MONDAY = 3  # 1970-01-01 was a Thursday
_VERDICTS = 3  # not known, legitimate, fraud
_AMOUNTS, _RATIOS, _TIMES = 16, 13, 24
_HALF_OCTAVES = 2
_RELATIONS = 5  # missing; another, the same, each again or for the first time in the list
_FIELDS = {
    "source": len(SOURCES),
    "what": len(EVENT_TYPES) * _VERDICTS,
    "amount": _AMOUNTS,
    "ratio": _RATIOS + 1,  # to the list's median; the last: not known
    "gap": _TIMES + 1,  # since the event before; the last: none is
    "age": _TIMES,  # until the scored event
    "hour": 2 * 24,  # of days from Monday to Friday, of Saturday and Sunday
    **{name: _RELATIONS for name in ENTITIES},  # to the scored event's
    "user": _RELATIONS,
}
FIRST_ROW = dict(zip(_FIELDS, accumulate(_FIELDS.values(), initial=0), strict=False))
TABLE_ROWS = sum(_FIELDS.values())
assert TABLE_ROWS <= 256  # so that a field is a byte


class Tokens(NamedTuple):
    """n sequences of P tokens in all, the scored event last in each."""

    starts: np.ndarray  # (n + 1,) int64: sequence i is starts[i] to starts[i + 1]
    row_PF: np.ndarray  # uint8: rows of the table

    def take(self, chosen: np.ndarray) -> Tokens:
        """The chosen sequences."""
        size = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(size)])
        index_P = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], size)
        return Tokens(starts, self.row_PF[index_P])

    @staticmethod
    def joined(parts: list[Tokens]) -> Tokens:
        size = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(size)])
        return Tokens(starts, np.concatenate([part.row_PF for part in parts]))


ANY = Tokens(np.array([0, 1]), np.array([list(FIRST_ROW.values())], np.uint8))  # one, of no event


def tokens_of(rows: Rows, sources: tuple[str, ...] = ("user",), keep: int = KEEP) -> Tokens:
    """The newest `keep` entries of each list of `sources`, the user's behind the others.

    As the features do (udfs/event_features): events in order of time, none that is later than the
    scored one, of copies the first; and of labels those that are given by then. A row without any
    list has no tokens.
    """
    parts = [_of_source(rows, source, keep) for source in sources]
    if len(parts) == 1:
        return parts[0]
    size_Sn = np.array([np.diff(part.starts) for part in parts])
    starts = np.concatenate([[0], np.cumsum(size_Sn.sum(axis=0))])
    row_PF = np.empty((starts[-1], len(_FIELDS)), np.uint8)
    first_n = starts[:-1]
    for part, size_n in zip(parts, size_Sn, strict=True):
        place_P = np.arange(part.starts[-1]) + np.repeat(first_n - part.starts[:-1], size_n)
        row_PF[place_P] = part.row_PF
        first_n = first_n + size_n
    return Tokens(starts, row_PF)


def _of_source(rows: Rows, source: str, keep: int) -> Tokens:
    lists = rows.of_user
    if source != "user":
        count, place = len(rows.event_ms), ENTITIES.index(source)
        lists = _some(rows.of_entities, place * count, (place + 1) * count)
    past = Past(_newest(lists, keep), rows.event_ms)
    own_T = (past.end_S - 1)[past.list_T]  # the scored event: the last of its list
    fields = _fields(past, own_T)
    names = ENTITIES if source == "user" else ("user",)
    fields |= {name: _relation(past, ids, own_T) for name, ids in zip(names, past.ids, strict=True)}
    row_TF = np.empty((len(past.list_T), len(_FIELDS)), np.uint8)
    for f, (name, first) in enumerate(FIRST_ROW.items()):
        row_TF[:, f] = first + fields.get(name, 0)
    row_TF[:, 0] = SOURCES.index(source)
    return Tokens(np.append(past.start_S, len(past.list_T)), row_TF)


def _fields(past: Past, own_T: np.ndarray) -> dict[str, np.ndarray]:
    """(T,) each: those that lists of every kind have."""
    time_T = past.now_ms_S[past.list_T] - past.age_T
    gap_T = np.full(len(time_T), _TIMES)
    follows = np.flatnonzero(past.list_T[1:] == past.list_T[:-1]) + 1
    gap_T[follows] = _log_time(time_T[follows] - time_T[follows - 1])
    weekend_T = (time_T // DAY_MS + _MONDAY) % 7 >= 5
    half_T = np.log1p(np.maximum(past.amount_T, 0.0)) * _HALF_OCTAVES
    return {
        "what": (past.letter_T - ord(TYPE_LETTERS[0])) * _VERDICTS + _verdicts(past),
        "amount": np.minimum(half_T, _AMOUNTS - 1).astype(np.uint8),
        "ratio": _ratio(past, own_T),
        "gap": gap_T,
        "age": _log_time(past.age_T),
        "hour": time_T // HOUR_MS % 24 + 24 * weekend_T,
    }


def _log_time(ms_T: np.ndarray) -> np.ndarray:
    """(T,) the octave of a time, in seconds."""
    return np.minimum(np.log2(1.0 + ms_T / SECOND_MS), _TIMES - 1).astype(np.uint8)


def _ratio(past: Past, own_T: np.ndarray) -> np.ndarray:
    """(T,) a purchase's amount over the median of the list's purchases before the scored event."""
    bought_T = (past.letter_T == letter("purchase")) & (past.amount_T > 0)
    earlier = np.flatnonzero(bought_T & (np.arange(len(bought_T)) != own_T))
    if not len(earlier):
        return np.full(len(bought_T), _RATIOS)
    list_E = past.list_T[earlier]
    amount_E = past.amount_T[earlier[np.lexsort((past.amount_T[earlier], list_E))]]
    count_S = np.bincount(list_E, minlength=len(past.now_ms_S))
    middle_S = np.cumsum(count_S) - count_S + np.maximum(count_S - 1, 0) // 2
    median_S = amount_E[np.minimum(middle_S, len(amount_E) - 1)]
    known_T = bought_T & (count_S > 0)[past.list_T]
    ratio_T = np.where(known_T, past.amount_T / median_S[past.list_T], 1.0)
    place_T = np.rint(np.log2(ratio_T) * _HALF_OCTAVES) + _RATIOS // 2
    return np.where(known_T, np.clip(place_T, 0, _RATIOS - 1), _RATIOS).astype(np.uint8)


def _verdicts(past: Past) -> np.ndarray:
    """(T,) what is known of the event, by its latest label: 0 nothing, 1 legitimate, 2 fraud."""
    lists = past.lists
    verdict_T = np.zeros(len(past.list_T), np.uint8)
    label_L = np.flatnonzero(~is_event(lists.letter))
    if not len(label_L):  # as in most batches
        return verdict_T
    list_L = np.searchsorted(lists.starts, label_L, side="right") - 1
    given_L = lists.time_ms[label_L] <= past.now_ms_S[list_L]
    order = np.argsort(lists.time_ms[label_L[given_L]], kind="stable")
    label_L, list_L = label_L[given_L][order], list_L[given_L][order]
    # Of equal keys the last in order of time is the latest: found from behind.
    key_L, behind_L = np.unique(_key(list_L, lists.event[label_L])[::-1], return_index=True)
    fraud_L = (lists.letter[label_L] == ord(FRAUD))[::-1][behind_L]
    key_T = _key(past.list_T, past.event_T)
    place_T = np.searchsorted(key_L, key_T)
    found = np.flatnonzero(np.append(key_L, -1)[place_T] == key_T)
    verdict_T[found] = 1 + fraud_L[place_T[found]]
    return verdict_T


def _key(list_T: np.ndarray, event_T: np.ndarray) -> np.ndarray:
    return (list_T.astype(np.int64) << 32) + (event_T.astype(np.int64) & 0xFFFFFFFF)


def _relation(past: Past, id_T: np.ndarray, own_T: np.ndarray) -> np.ndarray:
    """(T,) 0 if the id is missing, or else 1 + 2 if it is the scored event's + 1 if it is new."""
    first_T, _ = past.firsts_and_lasts(id_T)
    relation_T = 1 + 2 * (id_T == id_T[own_T]) + first_T
    return np.where(id_T == MISSING, 0, relation_T)


def _some(lists: TokenLists, first: int, end: int) -> TokenLists:
    """The lists from `first` to before `end`."""
    starts = lists.starts[first : end + 1]
    return lists.taken(slice(starts[0], starts[-1]), starts - starts[0])


def _newest(lists: TokenLists, keep: int) -> TokenLists:
    """The last `keep` entries of each list, in order of arrival."""
    size_S = np.diff(lists.starts)
    if (size_S <= keep).all():
        return lists
    return lists.until(lists.starts[1:], np.minimum(size_S, keep))
