"""Category affinity: which categories a user turns to, the recent ones more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns

KEPT = 10
MOVED = 5
DECIMALS = 9  # shares are rounded, so that equal ones tie by name and not by a sum's last bit


class Affinity(NamedTuple):
    """Of n rows."""

    after: list[dict[str, float]]  # the ten largest shares
    moved: list[list[tuple[str, float, float]]]  # category, share before, share after


def affinity(
    history: TokenColumns,
    window: TokenColumns,
    start_ms: np.ndarray,
    end_ms: np.ndarray,
    decay_days: float,
) -> Affinity:
    """Shares of exp(-(seen at - event_time) / tau): before, of the history seen at the window's
    start; after, of history and window seen at its end. start_ms, end_ms: (n,)."""
    rows = len(start_ms)
    names = sorted({*history.category, *window.category} - {""})
    if not names:
        return Affinity([{} for _ in range(rows)], [[] for _ in range(rows)])
    code_of = {name: code for code, name in enumerate(names)} | {"": -1}
    codes = np.fromiter(map(code_of.__getitem__, [*history.category, *window.category]), np.int64)
    row_of = np.concatenate([history.row_of, window.row_of])
    time_ms = np.concatenate([history.time_ms, window.time_ms])
    is_history = np.arange(len(codes)) < len(history.category)
    known = codes >= 0
    codes, row_of, time_ms, is_history = (x[known] for x in (codes, row_of, time_ms, is_history))

    # One entry for each (row, category), in order of row and name.
    pairs, place = np.unique(row_of * len(names) + codes, return_inverse=True)
    row, code = np.divmod(pairs, len(names))
    tau = decay_days * DAY_MS
    earlier = np.where(is_history, np.exp((time_ms - start_ms[row_of]) / tau), 0.0)
    before = _shares(np.bincount(place, earlier, len(pairs)), row, rows)
    after = _shares(np.bincount(place, np.exp((time_ms - end_ms[row_of]) / tau)), row, rows)

    change = np.round(np.abs(after - before), DECIMALS)
    top, change_top = _first(-after, row, KEPT), _first(-change, row, MOVED)
    shares: list[dict[str, float]] = [{} for _ in range(rows)]
    for r, c, share in zip(row[top].tolist(), code[top].tolist(), after[top].tolist(), strict=True):
        shares[r][names[c]] = share
    moved: list[list[tuple[str, float, float]]] = [[] for _ in range(rows)]
    for r, c, x, y in zip(
        row[change_top].tolist(),
        code[change_top].tolist(),
        before[change_top].tolist(),
        after[change_top].tolist(),
        strict=True,
    ):
        moved[r].append((names[c], x, y))
    return Affinity(shares, moved)


def _shares(weight: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    whole = np.bincount(row, weight, rows)
    return np.round(weight / np.where(whole > 0, whole, 1.0)[row], DECIMALS)


def _first(key: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """Indexes of each row's `count` smallest keys in order; equal ones keep their order."""
    order = np.lexsort((key, row))
    row = row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return order[rank < count]
