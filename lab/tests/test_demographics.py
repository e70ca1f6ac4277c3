"""Features, labels and split of the benchmark of demographics."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.users.demographics import Split, compare, moment_rows, read_demographics

DATE = pd.Timestamp("2017-05-01")


def baskets(*rows: tuple[int, str, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["household_id", "time", "spend"])
    return table.assign(time=pd.to_datetime(table.time))


def test_bands_become_ranks_and_unknown_values_stay_unknown() -> None:
    found = read_demographics()
    assert len(found) == 801
    assert (found.age.min(), found.age.max(), found.income.max()) == (0, 5, 11)
    known = found["home_ownership=Homeowner"]
    assert (known == 1).sum() == 504 and known.isna().sum() == 233
    assert not found[["age", "income", "household_size", "kids_count"]].isna().any(axis=None)


def test_features_know_the_past_and_labels_the_next_thirty_days() -> None:
    rows = moment_rows(
        baskets(
            (1, "2017-04-01", 10.0),
            (1, "2017-04-29", 20.0),
            (1, "2017-05-02", 5.0),
            (1, "2017-05-30", 7.0),
            (2, "2017-01-01", 4.0),
            (2, "2017-06-01", 9.0),
            (3, "2017-05-01", 1.0),
        ),
        DATE,
    ).set_index("household_id")
    assert rows.index.tolist() == [1, 2]
    assert rows.recency_days.tolist() == [2, 120]
    assert rows.baskets_7d.tolist() == [1, 0] and rows.spend_30d.tolist() == [30, 0]
    assert rows.gap_mean[1] == 28
    assert rows.spent.tolist() == [12, 0] and rows.churned.tolist() == [False, True]


def test_comparison_counts_households_with_demographics_only() -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "household_id": np.arange(400),
            "noise": random.normal(size=400),
            "age": random.integers(0, 6, 400).astype(float),
        }
    )
    rows["churned"] = rows.age > 2
    rows.loc[:99, "age"] = np.nan
    found = compare(Split(rows, rows), ["noise"], ["age"], "churned")
    assert (found["rows"], found["with"]) == (300, 1.0)
    assert found["difference"][1] > 0.1
