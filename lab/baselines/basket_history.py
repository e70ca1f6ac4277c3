"""The past of each user, as the published next-basket models read it.

Shape suffixes: W windows of the streams, L lines (a code in a window), R rows (a user at the end of
a window), E entries (a line in the past of a row), P pairs of a row and a code, C codes, K places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from liveprofile.units import DAY_MS
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation.next_basket import NO_CODE, PLACES, Baskets

# Rows have at least this many candidates besides their own: the most popular codes.
POPULAR_CODES = 100


class History(NamedTuple):
    """The past of R rows: every line from the user's first window to the row's window.

    Entries are ordered by row, code and window, so the entries of a pair are adjacent.
    """

    rows: int
    window_R: np.ndarray
    row_P: np.ndarray
    code_P: np.ndarray
    first_P: np.ndarray  # first entry of each pair
    age_days_E: np.ndarray  # float32, from the end of the entry's window to that of the row's
    windows_ago_E: np.ndarray  # 0 for the row's own window
    events_E: np.ndarray
    popularity_C: np.ndarray
    popular_row: np.ndarray  # popular codes that the user never had: candidates of each row
    popular_code: np.ndarray

    @classmethod
    def before(cls, baskets: Baskets, windows: np.ndarray, popularity_C: np.ndarray) -> History:
        """The past of the users of `windows`, these windows included."""
        first_R = baskets.first_W[baskets.first_of_user_W[windows]]
        end_R = baskets.first_W[windows + 1]
        line_E = concatenated_ranges(first_R, end_R)
        row_E = np.repeat(np.arange(len(windows)), end_R - first_R)
        key_E = row_E * baskets.codes + baskets.code_L[line_E]
        order_E = np.argsort(key_E, kind="stable")
        key_E, line_E, row_E = key_E[order_E], line_E[order_E], row_E[order_E]
        first_P = np.flatnonzero(np.diff(key_E, prepend=-1))
        row_P, code_P = np.divmod(key_E[first_P], baskets.codes)
        window_E = baskets.window_L[line_E]
        end_ms = baskets.end_ms_W
        popular = np.argsort(-popularity_C, kind="stable")[:POPULAR_CODES]
        popular = popular[popularity_C[popular] > 0]
        popular_row = np.repeat(np.arange(len(windows)), len(popular))
        popular_code = np.tile(popular, len(windows))
        pair_P = row_P * baskets.codes + code_P
        is_new = ~np.isin(popular_row * baskets.codes + popular_code, pair_P)
        return cls(
            len(windows),
            windows,
            row_P,
            code_P,
            first_P,
            ((end_ms[windows][row_E] - end_ms[window_E]) / DAY_MS).astype(np.float32),
            (windows[row_E] - window_E).astype(np.int32),
            baskets.events_L[line_E].astype(np.float32),
            popularity_C,
            popular_row[is_new],
            popular_code[is_new],
        )

    def sums(self, value_E: np.ndarray) -> np.ndarray:
        """(P,) sums of entry values."""
        if not len(self.first_P):
            return np.zeros(0)
        return np.add.reduceat(value_E, self.first_P, dtype=np.float64)

    def row_of_entries(self) -> np.ndarray:
        """(E,) the row of each entry."""
        sizes_P = np.diff(np.append(self.first_P, len(self.age_days_E)))
        return np.repeat(self.row_P, sizes_P)

    def windows(self) -> np.ndarray:
        """(R,) windows of each row's past, from its first window with a line."""
        windows_R = np.zeros(self.rows, np.int64)
        np.maximum.at(windows_R, self.row_of_entries(), self.windows_ago_E + 1)
        return windows_R

    def matrix(self, value_E: np.ndarray) -> csr_array:
        """(R, C) sparse sums of entry values."""
        index = np.searchsorted(self.row_P, np.arange(self.rows + 1))
        shape = (self.rows, len(self.popularity_C))
        return csr_array((self.sums(value_E), self.code_P, index), shape=shape)

    def best(
        self, score_P: np.ndarray, popularity_weight: float = 0.0, places: int = PLACES
    ) -> np.ndarray:
        """(R, K) the codes with the highest scores, best first.

        `popularity_weight` times a code's share of all popularity is added to its score, also for
        codes that the user never had. Ties go to the more popular code, then to the lower one.
        """
        share_C = self.popularity_C / max(self.popularity_C.sum(), 1)
        tie_C = np.empty(len(share_C))
        tie_C[np.argsort(-share_C, kind="stable")] = np.linspace(1, 0, len(share_C))
        row = np.concatenate([self.row_P, self.popular_row])
        code = np.concatenate([self.code_P, self.popular_code])
        score = np.concatenate([score_P, np.zeros(len(self.popular_row))])
        score += popularity_weight * share_C[code]
        highest_R = np.full(self.rows, 1e-300)
        np.maximum.at(highest_R, row, score)
        # One sort key instead of three: rows ascend, and scores descend within a row.
        order = np.argsort(row - 0.5 * score / highest_R[row] - 1e-7 * tie_C[code])
        return first_places(row[order], code[order], self.rows, places)


def first_places(row: np.ndarray, code: np.ndarray, rows: int, places: int) -> np.ndarray:
    """(R, places) the first codes of each row, whose codes are adjacent; NO_CODE where none is."""
    place = np.arange(len(row)) - np.searchsorted(row, row)
    best = np.full((rows, places), NO_CODE)
    kept = place < places
    best[row[kept], place[kept]] = code[kept]
    return best


def gp_topfreq(history: History) -> np.ndarray:
    """(R, K) the user's most frequent codes, then the most popular ones.

    GP-TopFreq of Li et al. 2023 (arXiv:2109.14233): counts of windows without decay.
    """
    return history.best(history.sums(np.ones_like(history.age_days_E)))
