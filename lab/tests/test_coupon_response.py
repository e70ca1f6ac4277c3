"""The coupon benchmark: features know only the time before a campaign, and no test user trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from lab.users.coupon_response import (
    FEATURE_SETS,
    TRAIN_UNTIL,
    VALIDATION_UNTIL,
    Journey,
    Settings,
    campaign_rows,
    compare,
    fit,
    is_test_user,
    measure,
    split,
    unseen_only,
)

START = pd.Timestamp("2017-06-01")


def journey(*purchases: tuple[int, int, str, float]) -> Journey:
    """purchases: household, product, time, amount. Product 1 has a coupon, 2 its category."""
    transactions = pd.DataFrame(
        purchases, columns=["household_id", "product_id", "transaction_timestamp", "sales_value"]
    )
    transactions["transaction_timestamp"] = pd.to_datetime(transactions.transaction_timestamp)
    transactions["product_category"] = np.where(transactions.product_id == 3, "other", "coupon's")
    transactions["basket_id"] = np.arange(len(transactions))
    transactions["discount"] = 0.0
    descriptions = pd.DataFrame(
        {"campaign_id": [7, 8], "campaign_type": ["Type A", "Type B"],
         "start_date": [START, START - pd.Timedelta(days=90)],
         "end_date": [START + pd.Timedelta(days=30)] * 2}
    )  # fmt: skip
    return Journey(
        transactions,
        pd.DataFrame({"campaign_id": [7, 7, 8], "household_id": [1, 2, 1]}),
        descriptions,
        pd.DataFrame({"coupon_upc": [5, 6], "product_id": [1, 1], "campaign_id": [7, 7]}),
        pd.DataFrame(
            {"household_id": [1, 2, 2], "coupon_upc": 5, "campaign_id": [8, 7, 8],
             "redemption_date": pd.to_datetime(["2017-05-01", "2017-06-10", "2017-06-11"])}
        ),
    )  # fmt: skip


PURCHASES = (
    (1, 1, "2017-05-20", 4.0),
    (1, 2, "2017-03-20", 6.0),
    (1, 3, "2017-05-21", 10.0),
    (2, 3, "2017-05-01", 1.0),
)


def rows_of(*purchases: tuple[int, int, str, float]) -> pd.DataFrame:
    data = journey(*PURCHASES, *purchases)
    return campaign_rows(data, next(data.descriptions.itertuples())).set_index("household_id")


def test_features_and_label_of_a_household() -> None:
    rows = rows_of()
    assert list(rows.index) == [1, 2]
    first = rows.loc[1]
    assert (first.of_products_30d, first.of_categories_30d, first.of_categories_90d) == (1, 1, 2)
    assert (first.baskets_30d, first.spend_90d, first.category_share) == (2, 20.0, 0.5)
    assert (first.campaigns_before, first.redemptions_before) == (1, 1)
    assert (rows.coupons.max(), rows.products.max(), rows.days.max()) == (2, 1, 30)
    assert rows.redeemed.tolist() == [False, True]
    assert rows.recency_days.tolist() == [11, 31]


def test_purchases_from_the_start_on_change_no_feature() -> None:
    names = FEATURE_SETS["all"]
    later = rows_of((1, 1, "2017-06-01", 9.0), (2, 2, "2017-07-01", 9.0))
    pd.testing.assert_frame_equal(rows_of()[names], later[names])


def test_no_test_user_and_no_later_campaign_trains() -> None:
    starts = [TRAIN_UNTIL - pd.Timedelta(days=1), TRAIN_UNTIL, VALIDATION_UNTIL]
    rows = pd.DataFrame(
        {"household_id": np.repeat(np.arange(200), 3), "start": starts * 200, "redeemed": False}
    )
    train, validation, test = split(rows)
    assert set(train.start) == {starts[0]} and set(validation.start) == {starts[1]}
    assert set(test.start) == {starts[2]}
    assert not set(test.household_id) & (set(train.household_id) | set(validation.household_id))
    assert 60 < len(test) < 140 and len(test) == sum(map(is_test_user, range(200)))


def test_validation_is_measured_with_intervals_and_the_test_stays_unread() -> None:
    random = np.random.default_rng(3)
    starts = [TRAIN_UNTIL - pd.Timedelta(days=1), TRAIN_UNTIL, VALIDATION_UNTIL]
    rows = pd.DataFrame({"household_id": np.repeat(np.arange(150), 3), "start": starts * 150})
    for name in FEATURE_SETS["all"]:
        rows[name] = random.normal(size=len(rows))
    rows["redeemed"] = rows.redemptions_before + 0.3 * random.normal(size=len(rows)) > 1
    train, validation, _ = split(rows)
    chosen = dict.fromkeys(FEATURE_SETS, Settings(2, 30, 1))
    report = compare(train, validation, chosen)
    for name, (value, low, high) in report["auc"].items():
        assert low < value < high, name
    value, low, high = report["auc"]["all"]
    scores = fit(train, FEATURE_SETS["all"], chosen["all"]).predict_proba(
        validation[FEATURE_SETS["all"]]
    )[:, 1]
    assert value == round(roc_auc_score(validation.redeemed, scores), 4) > 0.7
    without_test = rows[rows.start < VALIDATION_UNTIL]
    assert measure(without_test, with_test=False).keys() == {"settings", "validation"}


def test_test_campaigns_keep_only_coupons_that_no_earlier_campaign_offered() -> None:
    starts = {1: TRAIN_UNTIL, 2: VALIDATION_UNTIL, 3: VALIDATION_UNTIL}
    offers = pd.DataFrame({"campaign_id": [1, 2, 2, 3], "coupon_upc": [5, 5, 6, 6]})
    whole = journey()._replace(
        descriptions=pd.DataFrame({"campaign_id": list(starts), "start_date": starts.values()}),
        coupons=offers,
        redemptions=offers.assign(household_id=1),
    )
    kept = unseen_only(whole)
    # A coupon of two test campaigns is unseen in both.
    expected = [(1, 5), (2, 6), (3, 6)]
    for table in (kept.coupons, kept.redemptions):
        pairs = table[["campaign_id", "coupon_upc"]]
        assert list(pairs.itertuples(index=False, name=None)) == expected
