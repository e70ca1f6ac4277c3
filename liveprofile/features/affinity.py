"""Category affinity: each category's share of a user's events, weighted by recency.

How far a window moved the shares is the Jensen-Shannon divergence of those after it from those
before (Lin 1991, doi:10.1109/18.61115), in nats: 0 for equal shares, log 2 = 0.69 for shares that
have no category in common. It is a sum over the categories, so each has a part in it. A new taste
has a larger part than an equal change of a large share.
"""

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns

MAX_CATEGORIES = 10
MAX_SHIFTS = 5
DECIMALS = 9  # rounding makes equal shares tie by name, not by the last bit of a sum


class CategoryAffinity(NamedTuple):
    """The affinities of n rows."""

    shares: list[dict[str, float]]  # the MAX_CATEGORIES largest shares after the window
    # The MAX_SHIFTS largest parts of the divergence: (category, share before, share after).
    shifts: list[list[tuple[str, float, float]]]
    divergence: list[float | None]  # nats; None without a share before or after


def category_affinity(
    history: TokenColumns,
    window: TokenColumns,
    start_ms: np.ndarray,
    end_ms: np.ndarray,
    decay_days: float,
) -> CategoryAffinity:
    """Computes the category shares of n rows before and after their windows.

    An event weighs exp(-(t - event_time) / tau), tau = decay_days. The shares before cover the
    history at t = start_ms; the shares after cover history and window at t = end_ms.
    start_ms, end_ms: (n,).
    """
    rows = len(start_ms)
    names = sorted({*history.category, *window.category} - {""})
    if not names:
        return CategoryAffinity([{} for _ in range(rows)], [[] for _ in range(rows)], [None] * rows)
    code_of = {name: code for code, name in enumerate(names)} | {"": -1}
    codes = np.fromiter(map(code_of.__getitem__, [*history.category, *window.category]), np.int64)
    row_of = np.concatenate([history.row_of, window.row_of])
    time_ms = np.concatenate([history.time_ms, window.time_ms])
    is_history = np.arange(len(codes)) < len(history.category)
    known = codes >= 0
    codes, row_of, time_ms, is_history = (x[known] for x in (codes, row_of, time_ms, is_history))

    # One entry for each (row, category), in order of row and name.
    pairs, pair_of = np.unique(row_of * len(names) + codes, return_inverse=True)
    row, code = np.divmod(pairs, len(names))
    tau = decay_days * DAY_MS
    history_weight = np.where(is_history, np.exp((time_ms - start_ms[row_of]) / tau), 0.0)
    weight = np.exp((time_ms - end_ms[row_of]) / tau)
    before = _shares(np.bincount(pair_of, history_weight, len(pairs)), row, rows)
    after = _shares(np.bincount(pair_of, weight), row, rows)

    part = divergence_parts(before, after)
    top = _smallest_per_row(-after, row, MAX_CATEGORIES)
    change_top = _smallest_per_row(-part, row, MAX_SHIFTS)
    shares: list[dict[str, float]] = [{} for _ in range(rows)]
    for r, c, share in zip(row[top].tolist(), code[top].tolist(), after[top].tolist(), strict=True):
        shares[r][names[c]] = share
    shifts: list[list[tuple[str, float, float]]] = [[] for _ in range(rows)]
    for r, c, x, y in zip(
        row[change_top].tolist(),
        code[change_top].tolist(),
        before[change_top].tolist(),
        after[change_top].tolist(),
        strict=True,
    ):
        shifts[r].append((names[c], x, y))
    has_both = (np.bincount(row, before, rows) > 0) & (np.bincount(row, after, rows) > 0)
    sizes = np.round(np.bincount(row, part, rows), DECIMALS).tolist()
    divergence = [size if both else None for size, both in zip(sizes, has_both, strict=True)]
    return CategoryAffinity(shares, shifts, divergence)


def _shares(weight: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    total = np.bincount(row, weight, rows)
    return np.round(weight / np.where(total > 0, total, 1.0)[row], DECIMALS)


def divergence_parts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The part of each share in the divergence, in nats, at least 0. Shapes are equal."""
    middle = (before + after) / 2
    parts = 0.0
    for share in (before, after):
        # A share of 0 has no part; a middle is 0 only if both shares are.
        ratio = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
        parts = parts + share * np.log(ratio) / 2
    return np.round(parts, DECIMALS)


def _smallest_per_row(key: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of each row's `count` smallest keys in order; ties keep their order."""
    order = np.lexsort((key, row))
    row = row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return order[rank < count]
