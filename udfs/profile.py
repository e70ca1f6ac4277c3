"""From a window, its history, the baselines and the model's scores to the stored profile row.

docs/data-contract.md, sections 4 and 5. Everything numeric is computed for the whole batch; what is
a set or a map, row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from udfs import affinity, baselines
from udfs.baselines import DAY_MS, Baselines
from udfs.events import TYPE_INDEX
from udfs.risk import Finding
from udfs.store import Flag, ProfileRow
from udfs.window import History, Window

if TYPE_CHECKING:  # torch is for the workers, not for the client that submits
    from models.runtime import ProfileModel, Scores

FEATURE_VERSION = 1
FEATURES = (
    "windows", "events", "purchases", "amount", "purchase_windows", "recency_days",
    "purchases_decayed", "amount_decayed", "purchase_count_mean", "purchase_count_std",
    "purchase_amount_mean", "purchase_amount_std", "churn", "expected_spend",
)  # fmt: skip
_FROM_BASELINES = [name for name in FEATURES if name in Baselines.__dataclass_fields__]
_DECIMALS = 6
_JSON = orjson.OPT_SERIALIZE_NUMPY


class Inputs(NamedTuple):
    """A batch of n rows of `jobs.views.remembered`, read."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray
    windows: list[Window]
    histories: list[History]
    before: Baselines  # without the window, as seen at its start
    after: Baselines  # with it, as seen at its end


class Side(NamedTuple):
    """All features on one side of the window: (n, len(FEATURES)) float64, NaN where there is none."""

    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.values[:, FEATURES.index(name)]


def _recency_days(now_ms: np.ndarray, last_purchase_ms: list[int]) -> np.ndarray:
    last = np.array(last_purchase_ms, dtype=np.float64)
    return np.where(last > 0, (now_ms - last) / DAY_MS, np.nan)


def _side(base: Baselines, recency: np.ndarray, churn: np.ndarray, spend: np.ndarray) -> Side:
    columns: dict[str, Any] = {name: getattr(base, name) for name in _FROM_BASELINES}
    columns |= {"recency_days": recency, "churn": churn, "expected_spend": spend}
    stacked = np.column_stack([columns[name] for name in FEATURES]).astype(np.float64)
    return Side(np.round(stacked, _DECIMALS))


def sides(rows: Inputs, scores: Scores) -> tuple[Side, Side]:
    """The features before and after the window."""
    before = _side(
        rows.before,
        _recency_days(rows.window_start_ms, [h.last_purchase_ms for h in rows.histories]),
        scores.churn_before,
        scores.spend_before,
    )
    after = _side(
        rows.after,
        _recency_days(rows.window_end_ms, [h.last_purchase_ms_now for h in rows.histories]),
        scores.churn_after,
        scores.spend_after,
    )
    return before, after


def segments(after: dict[str, float], coupon_user: bool) -> list[str]:
    """Names that marketing and operations work with, sorted. `after`: the features by name."""
    recency = after["recency_days"]  # NaN compares false: never bought is neither loyal nor lapsing
    rules = {
        "new": after["windows"] <= 3,
        "loyal": after["purchase_windows"] >= 10 and recency <= 30,
        "lapsing": after["purchase_windows"] >= 3 and recency > 30,
        "churn_risk": after["churn"] >= 0.5 and after["purchases"] > 0,
        "browser": after["events"] >= 20 and after["purchases"] == 0,
        "big_spender": after["purchase_windows"] >= 3 and after["purchase_amount_mean"] >= 100,
        "coupon_user": coupon_user,
    }
    return sorted(name for name, true in rules.items() if true)


def risk_inputs(
    before: Side, rows: Inputs, scores: Scores
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """What the rules look at, row by row: before the window, and in it."""
    earlier = before.values.tolist()
    surprise = scores.surprise.tolist()
    return [
        (
            dict(zip(FEATURES, known, strict=True)),
            {
                "events": float(window.events),
                "purchases": float(window.counts["purchase"]),
                "amount": window.amount,
                "surprise": surprised,
            },
        )
        for known, window, surprised in zip(earlier, rows.windows, surprise, strict=True)
    ]


def _named(names: list[str], index: np.ndarray, p: np.ndarray) -> list[dict[str, float]]:
    return [
        {names[i]: share for i, share in zip(ids, ps, strict=True)}
        for ids, ps in zip(index.tolist(), np.round(p.astype(np.float64), 4).tolist(), strict=True)
    ]


def assemble(
    rows: Inputs,
    scores: Scores,
    model: ProfileModel,
    before: Side,
    after: Side,
    found: list[list[Finding]],
    flags: list[list[Flag]],
    *,
    decay_days: float,
    lookalike_distance: float,
) -> list[ProfileRow]:
    """The rows to store, in the order given."""
    distance = 1.0 - np.einsum("nd,nd->n", scores.embedding_before, scores.embedding_after)
    distance = np.round(np.clip(distance, 0.0, 2.0).astype(np.float64), _DECIMALS).tolist()
    interests = _named(model.categories, scores.interests_after, scores.interests_after_p)
    hours, weekdays = (
        np.round(activity, 4) for activity in (rows.after.activity_hour, rows.after.activity_weekday)
    )
    next_items = scores.next_items.tolist()
    surprise = scores.surprise.tolist()
    columns = zip(
        rows.user_id,
        rows.window_start_ms.tolist(),
        rows.window_end_ms.tolist(),
        rows.windows,
        rows.histories,
        before.values.tolist(),
        after.values.tolist(),
        strict=True,
    )
    stored = []
    for i, (user_id, start_ms, end_ms, window, history, was, now) in enumerate(columns):
        earlier = dict(zip(FEATURES, was, strict=True))
        current = dict(zip(FEATURES, now, strict=True))
        liked_before = affinity.shares(affinity.weights(history.tokens, start_ms, decay_days))
        liked = affinity.shares(
            affinity.weights([*history.tokens, *window.tokens], end_ms, decay_days)
        )
        counts = {
            "events": window.events,
            "counts": dict(window.counts),
            "amount": window.amount,
            "return_amount": window.return_amount,
            "items": window.items,
            "categories": window.categories,
            "devices": window.devices,
            "sessions": window.sessions,
        }
        profile = {
            "features": current,
            "activity_hour": hours[i],
            "activity_weekday": weekdays[i],
            "category_affinity": _rounded(affinity.largest(liked)),
            "interests": interests[i],
            "next_items": [model.items[item] for item in next_items[i]],
            "last": {
                "device": window.last_device,
                "channel": window.last_channel,
                "place": window.last_place,
                "tags": window.tags,
            },
        }
        delta = {
            "before": earlier,
            "after": current,
            "moved_categories": [
                (category, round(x, 4), round(y, 4))
                for category, x, y in affinity.moved(liked_before, liked)
            ],
            "window": counts,
        }
        recency = current["recency_days"]
        stored.append(
            ProfileRow(
                user_id=user_id,
                window_start_ms=start_ms,
                window_end_ms=end_ms,
                model_version=model.version,
                feature_version=FEATURE_VERSION,
                revision=model.revision,
                churn=current["churn"],
                expected_spend=current["expected_spend"],
                surprise=surprise[i],
                recency_days=None if recency != recency else recency,
                purchases_decayed=current["purchases_decayed"],
                amount_decayed=current["amount_decayed"],
                segments=segments(current, _coupon_user(window, history)),
                profile_json=orjson.dumps(profile, option=_JSON),
                embedding=scores.embedding_after[i],
                events=window.events,
                amount=window.amount,
                embedding_distance=distance[i],
                active_rules=sorted(finding.rule.id for finding in found[i]),
                delta_json=orjson.dumps(delta, option=_JSON),
                digests=window.digests,
                events_total=int(current["events"]),
                write_lookalike=distance[i] >= lookalike_distance or earlier["windows"] == 0,
                flags=flags[i],
            )
        )
    return stored


def _coupon_user(window: Window, history: History) -> bool:
    coupon = TYPE_INDEX["coupon"]
    return window.used_coupon or any(token.type_index == coupon for token in history.tokens)


def _rounded(share: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in share.items()}


def read_baselines(
    added: np.ndarray, sums: np.ndarray, start_ms: np.ndarray, end_ms: np.ndarray, decay_days: float
) -> tuple[Baselines, Baselines]:
    """Before and after. added, sums: (n, len(baselines.COLUMNS))."""
    return (
        baselines.read(sums - added, start_ms, decay_days),
        baselines.read(sums, end_ms, decay_days),
    )
