"""Events as they are drawn: one numpy record each, ids as codes, -1 or NaN for what is missing."""

from __future__ import annotations

import numpy as np

from liveprofile.wire.tokens import TYPE_INDEX

CHANNELS = ("app", "web", "shop")
GPS = 0.0008  # degrees, the deviation of its noise
APP, WEB, KIOSK = range(3)

ROW = np.dtype(
    [
        ("time_ms", np.int64),
        ("user", np.int32),
        ("type", np.int8),  # place in EVENT_TYPES
        ("item", np.int32),
        ("price", np.float64),  # of one item, currency
        ("quantity", np.int16),
        ("amount", np.float64),  # currency
        ("device", np.int32),
        ("lat", np.float64),  # degrees
        ("lon", np.float64),
        ("coupon", np.int32),
        ("channel", np.int8),  # place in CHANNELS
        ("shop", np.int32),
        ("address", np.int32),
        ("friend", np.int32),
        ("case", np.int32),  # the planted case it belongs to
    ]
)
_BLANK = np.array(
    [tuple(np.nan if ROW[name].kind == "f" else -1 for name in ROW.names or ())], dtype=ROW
)


def blank(count: int) -> np.ndarray:
    """(count,) rows with everything missing."""
    return np.repeat(_BLANK, count)


def of_type(rows: np.ndarray, event_type: str, time_ms: np.ndarray) -> np.ndarray:
    """The rows as events of that type at these times; changes them in place."""
    rows["type"] = TYPE_INDEX[event_type]
    rows["time_ms"] = time_ms
    return rows


def priced(rows: np.ndarray, item: np.ndarray, price: np.ndarray) -> np.ndarray:
    """The rows with item and price; changes them in place."""
    rows["item"], rows["price"] = item, price
    return rows


def at(rng: np.random.Generator, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The rows at a place, (2,) or (N, 2) degrees, as a GPS reads it; changes them in place."""
    noisy = place + GPS * rng.standard_normal((len(rows), 2))
    rows["lat"], rows["lon"] = np.round(noisy, 5).T
    return rows


def bought(
    rows: np.ndarray, quantity: np.ndarray | int, discount: np.ndarray | float
) -> np.ndarray:
    """The priced rows with quantity and amount, less the discount (0..1); changes them in place."""
    rows["quantity"] = quantity
    rows["amount"] = np.round(rows["price"] * rows["quantity"] * (1 - discount), 2)
    return rows
