"""From a window, its history, the baselines and the model's scores to the stored profile row.

docs/data-contract.md, sections 4 and 5. Everything numeric is computed for the whole batch; what is
a set or a map, row by row.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from liveprofile.config import Settings
from liveprofile.events.modalities import PLACE
from liveprofile.events.window import Window, Windows
from liveprofile.features import affinity, baselines
from liveprofile.features.baselines import Baselines
from liveprofile.rules.flag_policy import Finding
from liveprofile.rules.flags import Flag
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import Histories
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX
from models.profile import user_features
from udfs.profile.profile_row import ProfileRow

if TYPE_CHECKING:  # torch is for the workers, not for the client that submits
    from models.profile.inference import ProfileModel, Scores

FEATURE_VERSION = 1
FEATURES = (
    "windows", "events", "purchases", "amount", "purchase_windows", "recency_days",
    "purchases_decayed", "amount_decayed", "purchase_count_mean", "purchase_count_std",
    "purchase_amount_mean", "purchase_amount_std", "churn", "expected_spend",
)  # fmt: skip
_FROM_BASELINES = [name for name in FEATURES if name in Baselines.__dataclass_fields__]
NEW_WINDOWS = 3
_DECIMALS = 6
_JSON = orjson.OPT_SERIALIZE_NUMPY


class Inputs(NamedTuple):
    """A batch of n rows of `jobs.sql.profile_views.remembered`, read."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray
    windows: Windows
    histories: Histories
    before: Baselines  # without the window, as seen at its start
    after: Baselines  # with it, as seen at its end


class Side(NamedTuple):
    """The features on one side of the window: (n, len(FEATURES)) float64, NaN for none."""

    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.values[:, FEATURES.index(name)]


def numbers(rows: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads beside the tokens, before and after the window (models/profile/user_features.py)."""
    history = user_features.recent(rows.histories.tokens, rows.window_start_ms)
    window = user_features.recent(rows.windows.tokens, rows.window_end_ms)
    days = (rows.window_end_ms - rows.window_start_ms) / DAY_MS
    return (
        user_features.numbers(rows.before, _recency_before(rows), history),
        user_features.numbers(
            rows.after, _recency_after(rows), user_features.with_window(history, window, days)
        ),
    )


def _recency_before(rows: Inputs) -> np.ndarray:
    return user_features.recency_days(rows.window_start_ms, rows.histories.last_purchase_ms)


def _recency_after(rows: Inputs) -> np.ndarray:
    return user_features.recency_days(rows.window_end_ms, rows.histories.last_purchase_ms_now)


def _side(base: Baselines, recency: np.ndarray, churn: np.ndarray, spend: np.ndarray) -> Side:
    columns: dict[str, Any] = {name: getattr(base, name) for name in _FROM_BASELINES}
    columns |= {"recency_days": recency, "churn": churn, "expected_spend": spend}
    stacked = np.column_stack([columns[name] for name in FEATURES]).astype(np.float64)
    return Side(np.round(stacked, _DECIMALS))


def sides(rows: Inputs, scores: Scores) -> tuple[Side, Side]:
    """The features before and after the window."""
    before = _side(
        rows.before,
        _recency_before(rows),
        scores.churn_before,
        scores.spend_before,
    )
    after = _side(
        rows.after,
        _recency_after(rows),
        scores.churn_after,
        scores.spend_after,
    )
    return before, after


def segments(after: Side, coupon_user: np.ndarray) -> list[list[str]]:
    """Names that marketing and operations work with, sorted. coupon_user: (n,) bool."""
    x = {name: after.column(name) for name in FEATURES}
    recency = x["recency_days"]  # NaN compares false: never bought is neither loyal nor lapsing
    rules = {
        "big_spender": (x["purchase_windows"] >= 3) & (x["purchase_amount_mean"] >= 100),
        "browser": (x["events"] >= 20) & (x["purchases"] == 0),
        "churn_risk": (x["churn"] >= 0.5) & (x["purchases"] > 0),
        "coupon_user": coupon_user,
        "lapsing": (x["purchase_windows"] >= 3) & (recency > 30),
        "loyal": (x["purchase_windows"] >= 10) & (recency <= 30),
        "new": x["windows"] <= NEW_WINDOWS,
    }
    columns = [rule.tolist() for rule in rules.values()]
    return [list(compress(rules, true)) for true in zip(*columns, strict=True)]


def _coupon_users(rows: Inputs) -> np.ndarray:
    tokens = rows.histories.tokens
    users = np.array([window.used_coupon for window in rows.windows.rows], bool)
    users[tokens.row_of[tokens.type_index == TYPE_INDEX["coupon"]]] = True
    return users


def _named(names: list[str], index: np.ndarray, p: np.ndarray) -> list[dict[str, float]]:
    return [
        dict(zip([names[i] for i in ids], ps, strict=True))
        for ids, ps in zip(index.tolist(), np.round(p.astype(np.float64), 4).tolist(), strict=True)
    ]


class _Row(NamedTuple):
    """One row of what `assemble` computed in columns."""

    user_id: str
    start_ms: int
    end_ms: int
    window: Window
    counts: list[int]
    events: int
    amount: float
    return_amount: float
    before: list[float]
    after: list[float]
    segments: list[str]
    interests: dict[str, float]
    next_items: list[int]
    surprise: float
    distance: float
    lookalike: bool
    hours: np.ndarray
    weekdays: np.ndarray
    liked: dict[str, float]
    moved: list[tuple[str, float, float]]
    embedding: np.ndarray
    found: list[Finding]
    flags: list[Flag]


def assemble(
    rows: Inputs,
    scores: Scores,
    model: ProfileModel,
    before: Side,
    after: Side,
    found: list[list[Finding]],
    flags: list[list[Flag]],
    settings: Settings,
) -> list[ProfileRow]:
    """The rows to store, in the order given."""
    cosine = np.einsum("nd,nd->n", scores.embedding_before, scores.embedding_after)
    distance = np.round(np.clip(1.0 - cosine, 0.0, 2.0).astype(np.float64), _DECIMALS)
    coupon_users = _coupon_users(rows)
    was_in, now_in = segments(before, coupon_users), segments(after, coupon_users)
    seen, cassandra = after.column("windows"), settings.cassandra
    # The table that is searched, by vector and by segment, costs ten times the others' rows: it
    # holds no one who is still new, and is written for another segment (no longer new is the first
    # of these), a large step, and now and then for what moved little by little.
    lookalike = (seen > NEW_WINDOWS) & (
        np.array([old != new for old, new in zip(was_in, now_in, strict=True)], bool)
        | (distance >= cassandra.lookalike_distance)
        | (seen % cassandra.lookalike_refresh_windows == 0)
    )
    liked = affinity.affinity(
        rows.histories.tokens,
        rows.windows.tokens,
        rows.window_start_ms,
        rows.window_end_ms,
        settings.state.decay_days,
    )
    columns = _Row(
        user_id=rows.user_id,
        start_ms=rows.window_start_ms.tolist(),
        end_ms=rows.window_end_ms.tolist(),
        window=rows.windows.rows,
        counts=rows.windows.counts.tolist(),
        events=rows.windows.tokens.sizes.tolist(),
        amount=rows.windows.amount.tolist(),
        return_amount=rows.windows.return_amount.tolist(),
        before=before.values.tolist(),
        after=after.values.tolist(),
        segments=now_in,
        interests=_named(model.categories, scores.interests_after, scores.interests_after_p),
        next_items=scores.next_items.tolist(),
        surprise=scores.surprise.tolist(),
        distance=distance.tolist(),
        lookalike=lookalike.tolist(),
        hours=np.round(rows.after.activity_hour, 4),
        weekdays=np.round(rows.after.activity_weekday, 4),
        liked=liked.after,
        moved=liked.moved,
        embedding=scores.embedding_after,
        found=found,
        flags=flags,
    )
    return [_stored(_Row(*row), model) for row in zip(*columns, strict=True)]


def _stored(row: _Row, model: ProfileModel) -> ProfileRow:
    window = row.window
    current = dict(zip(FEATURES, row.after, strict=True))
    profile = {
        "features": current,
        "activity_hour": row.hours,
        "activity_weekday": row.weekdays,
        "category_affinity": row.liked,
        "interests": row.interests,
        "next_items": [model.items[item] for item in row.next_items],
        "last": {
            "device": window.last_device,
            "channel": window.last_channel,
            "place": window.last_place,
            "tags": window.tags,
        },
    }
    delta = {
        "before": dict(zip(FEATURES, row.before, strict=True)),
        "after": current,
        "moved_categories": row.moved,
        "window": {
            "events": row.events,
            "counts": {name: n for name, n in zip(EVENT_TYPES, row.counts, strict=True) if n},
            "amount": row.amount,
            "return_amount": row.return_amount,
            "items": window.items,
            "categories": window.categories,
            "devices": window.devices,
            "sessions": window.sessions,
            **_media(window),
        },
    }
    recency = current["recency_days"]
    return ProfileRow(
        user_id=row.user_id,
        window_start_ms=row.start_ms,
        window_end_ms=row.end_ms,
        model_version=model.version,
        feature_version=FEATURE_VERSION,
        revision=model.revision,
        churn=current["churn"],
        expected_spend=current["expected_spend"],
        surprise=row.surprise,
        recency_days=None if recency != recency else recency,
        purchases_decayed=current["purchases_decayed"],
        amount_decayed=current["amount_decayed"],
        segments=row.segments,
        profile_json=orjson.dumps(profile, option=_JSON),
        embedding=row.embedding,
        events=row.events,
        amount=row.amount,
        embedding_distance=row.distance,
        active_rules=sorted(finding.rule.id for finding in row.found),
        delta_json=orjson.dumps(delta, option=_JSON),
        digests=window.digests,
        events_total=int(current["events"]),
        write_lookalike=row.lookalike,
        flags=row.flags,
    )


def _media(window: Window) -> dict[str, list[str]]:
    """The encoders whose vectors the model read, if there are any."""
    names = sorted(modality.name for modality in window.beside.vectors if modality != PLACE)
    return {"media": names} if names else {}


def read_baselines(
    added: np.ndarray, sums: np.ndarray, start_ms: np.ndarray, end_ms: np.ndarray, decay_days: float
) -> tuple[Baselines, Baselines]:
    """Before and after. added, sums: (n, len(baselines.COLUMNS))."""
    return (
        baselines.read(sums - added, start_ms, decay_days),
        baselines.read(sums, end_ms, decay_days),
    )
