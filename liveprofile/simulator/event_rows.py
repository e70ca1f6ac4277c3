"""Simulated events as numpy rows: ids are integer codes, -1 or NaN marks a missing value.

The `set_*` functions change the rows in place and return them. Array shapes: N rows.
"""

from __future__ import annotations

import numpy as np

from liveprofile.wire.tokens import TYPE_INDEX

CHANNELS = ("app", "web", "shop")
APP, WEB, KIOSK = range(3)
GPS_NOISE = 0.0008  # degrees, standard deviation

ROW = np.dtype(
    [
        ("time_ms", np.int64),
        ("user", np.int32),
        ("type", np.int8),  # index in EVENT_TYPES
        ("item", np.int32),
        ("price", np.float64),  # of one item, currency
        ("quantity", np.int16),
        ("amount", np.float64),  # currency
        ("device", np.int32),
        ("lat", np.float64),  # degrees
        ("lon", np.float64),
        ("coupon", np.int32),
        ("channel", np.int8),  # index in CHANNELS
        ("shop", np.int32),
        ("address", np.int32),
        ("friend", np.int32),
        ("case", np.int32),  # number of the planted case
    ]
)
_BLANK = np.array(
    [tuple(np.nan if ROW[name].kind == "f" else -1 for name in ROW.names or ())], dtype=ROW
)


def blank_rows(count: int) -> np.ndarray:
    """(count,) rows with all values missing."""
    return np.repeat(_BLANK, count)


def set_type(rows: np.ndarray, event_type: str, time_ms: np.ndarray) -> np.ndarray:
    """Sets the event type and the (N,) times."""
    rows["type"] = TYPE_INDEX[event_type]
    rows["time_ms"] = time_ms
    return rows


def set_item(rows: np.ndarray, item: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Sets the (N,) item codes and prices."""
    rows["item"], rows["price"] = item, price
    return rows


def set_location(rng: np.random.Generator, rows: np.ndarray, location: np.ndarray) -> np.ndarray:
    """Sets the location, (2,) or (N, 2) degrees, with GPS noise."""
    noisy = location + GPS_NOISE * rng.standard_normal((len(rows), 2))
    rows["lat"], rows["lon"] = np.round(noisy, 5).T
    return rows


def set_amount(
    rows: np.ndarray, quantity: np.ndarray | int, discount: np.ndarray | float
) -> np.ndarray:
    """Sets quantity and amount = price * quantity * (1 - discount); discount is 0..1."""
    rows["quantity"] = quantity
    rows["amount"] = np.round(rows["price"] * rows["quantity"] * (1 - discount), 2)
    return rows
