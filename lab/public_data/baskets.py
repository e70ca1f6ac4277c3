"""Baskets of published data sets without a calendar, as behaviour events.

A basket has only its distance from the user's basket before, if any. So each user gets a calendar
in which the last basket but one is on VALIDATION_DAY: the last one is in the test part of RECIPE,
the one before it in validation, earlier ones in training. Baskets of one day are put a day apart,
so that each is a window of its own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.public_data.tables import Keep, read_csv
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS
from models.profile.recipes import Recipe

VALIDATION_DAY = datetime(2019, 1, 7, tzinfo=UTC)
RECIPE = Recipe(
    name="baskets",
    revision=1,
    data_licence="that of the data set",
    item_names=16_384,
    item_negatives=1024,
    epochs=3,
    ranker_epochs=3,
    validation_from=VALIDATION_DAY.date().isoformat(),
    test_from=(VALIDATION_DAY + timedelta(days=1)).date().isoformat(),
)
DAYS_BETWEEN = 7  # baskets of files that tell only their order
NOON = 12
COLUMNS = ["user", "day", "hour", "item", "category"]


class Selection(NamedTuple):
    """What Li et al. 2023 (arXiv:2109.14233) keep of Instacart."""

    user_share: float = 0.1  # the lowest user ids
    min_baskets: int = 3
    max_baskets: int = 50
    min_item_baskets: int = 17  # baskets with an item, each user's last one not counted


def read_instacart(folder: Path, selection: Selection = Selection()) -> pd.DataFrame:  # noqa: B008
    """The lines of all baskets, with COLUMNS; aisles are the categories.

    folder: has orders.csv, order_products__prior.csv, order_products__train.csv, products.csv and
    aisles.csv of the Instacart Online Grocery Shopping Dataset 2017. The orders of its eval_set
    "test" have no products and are left out. Raises InputError.
    """
    integer = pa.int64()
    orders = read_csv(
        folder / "orders.csv",
        {
            "order_id": integer,
            "user_id": integer,
            "order_number": integer,
            "order_hour_of_day": integer,
            "days_since_prior_order": pa.float64(),
        },
    )
    users = int(orders.user_id.nunique() * selection.user_share)
    orders = orders[orders.user_id <= users].sort_values(["user_id", "order_number"])
    gap = orders.days_since_prior_order.fillna(0.0)
    orders["day"] = gap.groupby(orders.user_id).cumsum().astype(np.int64)
    of_orders = _keep_orders(orders.order_id)
    products = [
        read_csv(
            folder / f"order_products__{part}.csv",
            {"order_id": integer, "product_id": integer},
            of_orders,
        )
        for part in ("prior", "train")
    ]
    lines = orders.merge(pd.concat(products), on="order_id")
    lines = _selected(
        lines.rename(columns={"user_id": "user", "product_id": "item"}), selection
    ).merge(_aisles(folder), on="item", how="left")
    lines["hour"] = lines.order_hour_of_day
    return _on_calendar(lines)[COLUMNS]


def _keep_orders(order_ids: pd.Series) -> Keep:
    wanted = pa.array(order_ids)
    return lambda batch: batch.filter(pc.is_in(batch["order_id"], value_set=wanted))


def _aisles(folder: Path) -> pd.DataFrame:
    products = read_csv(
        folder / "products.csv", {"product_id": pa.int64(), "aisle_id": pa.int64()}
    ).merge(read_csv(folder / "aisles.csv", {"aisle_id": pa.int64(), "aisle": pa.string()}))
    return products.rename(columns={"product_id": "item", "aisle": "category"})


def _selected(lines: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    baskets = lines.groupby("user").order_number.transform("nunique")
    lines = lines[baskets.between(selection.min_baskets, selection.max_baskets)]
    is_last = lines.order_number == lines.groupby("user").order_number.transform("max")
    counts = lines[~is_last].item.value_counts()
    frequent = lines.item.isin(counts.index[counts >= selection.min_item_baskets])
    has_target = lines.user.isin(lines.user[frequent & is_last])
    return lines[frequent & has_target]


def read_published_baskets(history: Path, future: Path) -> pd.DataFrame:
    """The lines of all baskets, with COLUMNS; without categories.

    history, future: the files NAME_history.json and NAME_future.json of Li et al. 2023: of each
    user, baskets of item numbers in their order between two [-1], and the last basket. Raises
    InputError.
    """
    before, last = _read_baskets(history), _read_baskets(future)
    rows = [
        (user, order, item)
        for user, target in last.items()
        for order, basket in enumerate([*before.get(user, []), *target])
        for item in set(basket)
    ]
    if not rows:
        raise InputError(f"{future}: no baskets")
    lines = pd.DataFrame(rows, columns=["user", "order_number", "item"])
    lines["day"] = lines.order_number * DAYS_BETWEEN
    lines["hour"], lines["category"] = NOON, ""
    return _on_calendar(lines)[COLUMNS]


def _read_baskets(file: Path) -> dict[str, list[list[int]]]:
    """The baskets of each user, in order, without empty ones."""
    try:
        users = json.loads(file.read_text())
        return {
            user: [basket for basket in baskets[1:-1] if basket] for user, baskets in users.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{file}: no baskets in the form {{user: [[-1], ..., [-1]]}}: {error}"
        ) from None


def _on_calendar(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines with `day` counted from the user's last basket but one.

    Baskets keep the order of `order_number`, and each is on a later day than the one before. Leaves
    out users with one basket.
    """
    baskets = lines[["user", "order_number", "day"]].drop_duplicates(["user", "order_number"])
    baskets = baskets.sort_values(["user", "order_number"])
    of_user = baskets.groupby("user")
    place = of_user.cumcount()
    day = (baskets.day - place).groupby(baskets.user).cummax() + place
    is_validation = of_user.cumcount(ascending=False) == 1
    validation = pd.Series(day[is_validation].to_numpy(), baskets.user[is_validation])
    baskets["day"] = day - baskets.user.map(validation)
    baskets = baskets.dropna(subset="day").astype({"day": np.int64})
    return lines.drop(columns="day").merge(baskets, on=["user", "order_number"])


def write_events(lines: pd.DataFrame, file: Path) -> None:
    """Writes the lines as purchases, a JSON object a line."""
    first_ms = int(VALIDATION_DAY.timestamp() * 1000)
    time_ms = first_ms + lines.day * DAY_MS + lines.hour * HOUR_MS
    columns = [lines.user, lines.day, lines.item, lines.category.fillna(""), time_ms]
    with file.open("wb") as out:
        for user, day, item, category, at_ms in zip(*map(pd.Series.tolist, columns), strict=True):
            event = {
                "event_id": f"{user}-{day}-{item}",
                "user_id": str(user),
                "event_type": "purchase",
                "event_time": at_ms,
                "item_id": str(item),
                "category_id": category,
            }
            out.write(orjson.dumps(event) + b"\n")
