"""Events of generated shops, with their features and what they were: to train and to measure on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from liveprofile.simulator import Config
from liveprofile.simulator.config import DAY_MS
from models.fraud.datasets.part import Part, sampled
from models.fraud.datasets.simulated_rows import generated, partly_hidden
from models.fraud.sequence.tokens import Tokens
from models.fraud.thresholds import by_budget

if TYPE_CHECKING:
    from models.fraud.sequence.network import EventSequence

SHOP_BITS = 32  # above them stands the shop


class Seen(NamedTuple):
    """M events of one or more shops, of each shop in order of time."""

    part: Part
    weight: float  # of a legitimate event: some are left out in training
    amount_M: np.ndarray  # money
    type_M: np.ndarray  # place in EVENT_TYPES
    time_ms_M: np.ndarray
    user_M: np.ndarray  # this and the case: numbers of different shops differ (SHOP_BITS)
    case_M: np.ndarray  # -1: none
    kind_M: np.ndarray  # of the case, "" if none
    user_days: int  # how many users were there, times days
    tokens: Tokens | None = None  # if they were asked for

    @property
    def day_M(self) -> np.ndarray:
        return self.time_ms_M // DAY_MS


def see(
    config: Config,
    names: list[str],
    delay_days: float,
    from_day: int,
    legitimate: int | None,
    sources: tuple[str, ...] = (),
    sequence: EventSequence | None = None,
    hidden: bool = False,
) -> Seen:
    """A shop's events from a day on: features by all events before, too.

    legitimate: of the events that are no fraud so many, drawn by chance; None: all. sources: lists
    to give tokens of. sequence: of a model that has one. hidden: whether users hide some of what
    they share (models.fraud.datasets.simulated_rows.partly_hidden).
    """
    shop = generated(config)
    if hidden:
        shop = partly_hidden(shop, config.seed)
    rows = np.flatnonzero(shop.time_ms_N >= config.start_ms + from_day * DAY_MS)
    weight = 1.0
    if legitimate is not None:
        chosen, weight = sampled(shop.fraud_N[rows], legitimate)
        rows = rows[chosen]
    return Seen(
        Part(shop.history.features(rows, names, delay_days, sequence=sequence), shop.fraud_N[rows]),
        weight,
        shop.history.events.amount[rows],
        shop.type_N[rows],
        shop.time_ms_N[rows],
        shop.user_N[rows].astype(np.int64),
        shop.case_N[rows],
        shop.kind_N[rows],
        config.users * (config.days - from_day),
        shop.history.tokens(rows, sources) if sources else None,
    )


def joined(parts: list[Seen]) -> Seen:
    """Events of several shops."""

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in parts])

    x_MF = np.concatenate([one.part.x_NF for one in parts])
    fraud_M = np.concatenate([one.part.fraud_N for one in parts])
    legitimate = [(~one.part.fraud_N).sum() for one in parts]
    shop_M = np.repeat(np.arange(len(parts)), [len(one.case_M) for one in parts])
    apart_M = shop_M << SHOP_BITS
    case_M = all_of("case_M")
    return Seen(
        Part(x_MF, fraud_M),
        float(np.average([one.weight for one in parts], weights=legitimate)),
        all_of("amount_M"),
        all_of("type_M"),
        all_of("time_ms_M"),
        all_of("user_M") + apart_M,
        np.where(case_M < 0, -1, case_M + apart_M),
        all_of("kind_M"),
        sum(one.user_days for one in parts),
        Tokens.joined([one.tokens for one in parts]) if parts[0].tokens else None,
    )


def least_score(seen: Seen, score_M: np.ndarray, budget: float) -> float:
    """From which score on there are `budget` alerts for 10,000 users a day."""
    # All days at once: the budget holds on the mean day, not on each.
    return by_budget(score_M, seen.day_M, seen.user_M, 1, budget * seen.user_days / 10_000)


def alerted(seen: Seen, alert_M: np.ndarray) -> dict[str, Any]:
    """What alerts find. An alert is a user on a day; a case is alerted if one of its events is.

    Of each kind of case also the share of its users' days that is alerted: a ring has many.
    """
    user_day_M = _user_days(seen)

    def per_10_000(chosen_M: np.ndarray) -> float:
        return round(len(np.unique(user_day_M[chosen_M])) / seen.user_days * 10_000, 2)

    kinds = {}
    for kind in sorted(set(seen.kind_M) - {""}):
        of_kind_M = seen.kind_M == kind
        kinds[kind] = {
            "cases": len(np.unique(seen.case_M[of_kind_M])),
            "alerted": _share(seen.case_M, of_kind_M, alert_M),
            "user_days_alerted": _share(user_day_M, of_kind_M, alert_M),
        }
    return {
        "alerts_per_10000": per_10_000(alert_M),
        "frauds_alerted_per_10000": per_10_000(alert_M & seen.part.fraud_N),
        "frauds_per_10000": per_10_000(seen.part.fraud_N),
        "kinds": kinds,
    }


def _user_days(seen: Seen) -> np.ndarray:
    """A number for each user and day."""
    pairs = np.column_stack([seen.user_M, seen.day_M])
    return np.unique(pairs, axis=0, return_inverse=True)[1].ravel()


def _share(key_M: np.ndarray, of_kind_M: np.ndarray, alert_M: np.ndarray) -> float:
    """Of the kind's keys those with an alert."""
    found, all_of_it = np.unique(key_M[of_kind_M & alert_M]), np.unique(key_M[of_kind_M])
    return round(len(found) / len(all_of_it), 4)
