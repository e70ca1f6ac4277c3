"""Instacart's files and those of Li et al. 2023, compared with baskets written by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.public_data.baskets import (
    RECIPE,
    Selection,
    read_instacart,
    read_published_baskets,
    write_events,
)
from lab.public_data.next_basket import ndcg_of_whole_basket
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile.data.prepared import split_by_time
from models.profile.evaluation.next_basket import NextBaskets

FILES = {
    "orders.csv": """order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,\
days_since_prior_order
11,1,prior,1,2,08,
12,1,prior,2,3,07,15.0
13,1,prior,3,3,12,0.0
14,1,train,4,4,07,30.0
21,2,prior,1,2,09,
22,2,prior,2,2,09,7.0
23,2,test,3,2,09,7.0
31,3,prior,1,2,09,
32,3,prior,2,2,10,3.0
33,3,prior,3,2,11,4.0
34,3,test,4,2,11,4.0
41,4,prior,1,2,09,
42,4,prior,2,2,10,3.0
43,4,prior,3,2,11,4.0
""",
    "order_products__prior.csv": """order_id,product_id,add_to_cart_order,reordered
12,5,1,1
12,6,2,0
11,5,1,0
13,6,1,1
21,5,1,0
22,5,1,0
31,5,1,0
31,9,2,0
32,5,1,1
33,6,1,0
33,8,1,0
41,5,1,0
42,5,1,0
43,5,1,0
""",
    "order_products__train.csv": """order_id,product_id,add_to_cart_order,reordered
14,5,1,1
14,6,2,1
14,9,3,0
""",
    "products.csv": """product_id,product_name,aisle_id,department_id
5,"Bananas, ""organic""\",24,4
6,Milk,84,16
8,Tea,94,7
9,Salt,104,13
""",
    "aisles.csv": """aisle_id,aisle
24,fresh fruits
84,milk
94,tea
104,spices seasonings
""",
}
# Three of four users; an item counts if it is in two baskets that are not a user's last.
SMALL = Selection(user_share=0.75, min_baskets=3, max_baskets=4, min_item_baskets=2)


@pytest.fixture
def instacart(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def as_tuples(lines: pd.DataFrame) -> list[tuple]:
    return sorted(lines.itertuples(index=False, name=None))


def test_instacart_orders_get_a_calendar_and_the_published_selection(instacart: Path) -> None:
    fruit, milk = "fresh fruits", "milk"
    assert as_tuples(read_instacart(instacart, SMALL)) == [
        # The third order came on the day of the second, so it is a day later here.
        (1, -16, 8, 5, fruit), (1, -1, 7, 5, fruit), (1, -1, 7, 6, milk), (1, 0, 12, 6, milk),
        # The next one keeps its distance from the others. Salt is in one earlier basket only.
        (1, 29, 7, 5, fruit), (1, 29, 7, 6, milk),
        # User 2 has two orders with products, user 4 is not among the first three.
        (3, -3, 9, 5, fruit), (3, 0, 10, 5, fruit), (3, 4, 11, 6, milk),
    ]  # fmt: skip


def test_a_user_whose_last_basket_has_rare_items_only_is_left_out(instacart: Path) -> None:
    file = instacart / "order_products__train.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n14,9,1,0\n")
    assert set(read_instacart(instacart, SMALL).user) == {3}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("orders.csv", "order_number", "number", "no column 'order_number'; it has order_id, "),
        ("orders.csv", "15.0", "soon", "invalid value 'soon'"),
        ("aisles.csv", None, None, "aisles.csv"),
    ],
)
def test_a_missing_file_or_column_is_named_in_one_line(
    instacart: Path, file: str, old: str | None, new: str | None, message: str
) -> None:
    path = instacart / file
    path.unlink() if old is None else path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as raised:
        read_instacart(instacart, SMALL)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_published_baskets_are_a_week_apart_and_the_last_is_the_target(tmp_path: Path) -> None:
    history, future = tmp_path / "a_history.json", tmp_path / "a_future.json"
    history.write_text('{"u": [[-1], [1, 2], [2], [-1]], "other": [[-1], [1], [-1]]}')
    future.write_text('{"u": [[-1], [3, 1, 3], [-1]]}')
    lines = read_published_baskets(history, future)
    assert as_tuples(lines) == [
        ("u", -7, 12, 1, ""), ("u", -7, 12, 2, ""), ("u", 0, 12, 2, ""),
        ("u", 7, 12, 1, ""), ("u", 7, 12, 3, ""),
    ]  # fmt: skip
    future.write_text("[]")
    with pytest.raises(InputError, match=r"a_future\.json: no baskets in the form"):
        read_published_baskets(history, future)


def test_last_baskets_are_the_test_part_and_those_before_validation(
    instacart: Path, tmp_path: Path
) -> None:
    lines = read_instacart(instacart, SMALL)
    write_events(lines, tmp_path / "events.jsonl")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len({event["event_id"] for event in events}) == len(events) == 9
    time = datetime.fromtimestamp(events[0]["event_time"] / 1000, UTC)
    assert (time.isoformat(), events[0]["item_id"]) == ("2018-12-22T08:00:00+00:00", "5")
    user_days = sorted({(each["user_id"], each["event_time"] // DAY_MS) for each in events})
    ends_ms = np.array([(day + 1) * DAY_MS for _, day in user_days])
    split = split_by_time(RECIPE, ends_ms)
    parts = [[user_days[window][0] for window in part] for part in split[:3]]
    assert parts == [["1", "1", "3"], ["1", "3"], ["1", "3"]]


def test_ndcg_of_a_basket_of_twelve_is_divided_by_twelve_places() -> None:
    targets = NextBaskets(
        np.array([1, 3]), np.array([0, 1]), np.repeat([0, 1], [12, 1]),
        np.append(np.arange(12), 3), np.ones(13, bool), 20,
    )  # fmt: skip
    ranking = np.array([[5, 19, 18, 17, 16, 15, 14, 13, 12, 0], [9, 3, 4, 5, 6, 7, 8, 0, 1, 2]])
    gain = 1 / np.log2(np.arange(12) + 2)
    expected = [(gain[0] + gain[9]) / gain.sum(), gain[1]]
    assert ndcg_of_whole_basket(targets, ranking) == pytest.approx(expected)
