"""Builds profile rows from windows, histories, baselines and the model's scores.

docs/data-contract.md, sections 4 and 5. Numbers are computed for the whole batch at once; sets and
maps row by row. Shapes: n rows, d embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from liveprofile import value_curves
from liveprofile.events.modalities import PLACE
from liveprofile.events.window import Window, WindowBatch
from liveprofile.features import affinity, baselines
from liveprofile.features.baselines import Baselines
from liveprofile.rules.conditions import AttributeValue
from liveprofile.rules.flag_policy import RuleMatch
from liveprofile.rules.flags import Flag
from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.evaluation import Evaluation, evaluate
from liveprofile.segments.features import SegmentInputs, features_at
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import Histories
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX
from models.profile import user_features
from udfs.profile.row import ProfileRow

LOOKALIKE_DISTANCE = 0.6  # cosine distance that writes a look-alike row
LOOKALIKE_REFRESH_WINDOWS = 16

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores

FEATURE_VERSION = 1
FEATURES = (
    "windows",
    "events",
    "purchases",
    "amount",
    "purchase_windows",
    "recency_days",
    "purchases_decayed",
    "amount_decayed",
    "purchase_count_mean",
    "purchase_count_std",
    "purchase_amount_mean",
    "purchase_amount_std",
    "churn",
    "expected_spend",
)
_BASELINE_FEATURES = [name for name in FEATURES if name in Baselines.__dataclass_fields__]
NEW_USER_WINDOWS = 3
_DECIMALS = 6
_JSON = orjson.OPT_SERIALIZE_NUMPY


class ProfileInputs(NamedTuple):
    """n parsed rows of `jobs.sql.profile_views.profile_input`."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray  # (n,) int64
    windows: WindowBatch
    histories: Histories
    before: Baselines  # without the window, at the window's start
    after: Baselines  # with the window, at the window's end


class FeatureColumns(NamedTuple):
    """The features before or after the window."""

    values: np.ndarray  # (n, len(FEATURES)) float64, NaN where a feature is undefined

    def column(self, name: str) -> np.ndarray:
        """Returns one feature, (n,) float64."""
        return self.values[:, FEATURES.index(name)]


def numeric_inputs(inputs: ProfileInputs) -> tuple[np.ndarray, np.ndarray]:
    """Returns the model's numeric inputs before and after the window (user_features.py)."""
    history = user_features.summarize_activity(inputs.histories.tokens, inputs.window_start_ms)
    window = user_features.summarize_activity(inputs.windows.tokens, inputs.window_end_ms)
    days = (inputs.window_end_ms - inputs.window_start_ms) / DAY_MS
    return (
        user_features.feature_matrix(inputs.before, _recency_before(inputs), history),
        user_features.feature_matrix(
            inputs.after, _recency_after(inputs), user_features.add_window(history, window, days)
        ),
    )


def _recency_before(inputs: ProfileInputs) -> np.ndarray:
    return user_features.recency_days(inputs.window_start_ms, inputs.histories.last_purchase_ms)


def _recency_after(inputs: ProfileInputs) -> np.ndarray:
    return user_features.recency_days(inputs.window_end_ms, inputs.histories.last_purchase_ms_now)


def _feature_columns(
    base: Baselines, recency: np.ndarray, churn: np.ndarray, spend: np.ndarray
) -> FeatureColumns:
    columns: dict[str, Any] = {name: getattr(base, name) for name in _BASELINE_FEATURES}
    columns |= {"recency_days": recency, "churn": churn, "expected_spend": spend}
    stacked = np.column_stack([columns[name] for name in FEATURES]).astype(np.float64)
    return FeatureColumns(np.round(stacked, _DECIMALS))


def features_before_and_after(
    inputs: ProfileInputs, scores: Scores
) -> tuple[FeatureColumns, FeatureColumns]:
    """Returns the features before and after the window."""
    before = _feature_columns(
        inputs.before, _recency_before(inputs), scores.churn_before, scores.spend_before
    )
    after = _feature_columns(
        inputs.after, _recency_after(inputs), scores.churn_after, scores.spend_after
    )
    return before, after


def segment_inputs(
    features: FeatureColumns,
    used_coupon: np.ndarray,
    window_end_ms: np.ndarray,
    interests: list[dict[str, float]],
    category_affinity: list[dict[str, float]],
    attributes: Sequence[Mapping[str, AttributeValue]] = (),
) -> SegmentInputs:
    """Returns what segments read of n rows at the windows' ends. used_coupon: (n,) bool."""
    profile = {name: features.column(name) for name in FEATURES}
    return SegmentInputs(
        features_at(profile, used_coupon, window_end_ms, window_end_ms, decay_days=1.0),
        interests,
        category_affinity,
        attributes,
    )


def _coupon_users(inputs: ProfileInputs) -> np.ndarray:
    tokens = inputs.histories.tokens
    users = np.array([window.used_coupon for window in inputs.windows.rows], bool)
    users[tokens.row_of[tokens.type_index == TYPE_INDEX["coupon"]]] = True
    return users


def probabilities_by_name(
    names: list[str], index: np.ndarray, p: np.ndarray
) -> list[dict[str, float]]:
    """The interests of n rows as they are stored. index, p: (n, k)."""
    return [
        dict(zip([names[i] for i in ids], ps, strict=True))
        for ids, ps in zip(index.tolist(), np.round(p.astype(np.float64), 4).tolist(), strict=True)
    ]


class _RowValues(NamedTuple):
    """One row of the columns that `assemble` computes."""

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
    segments: frozenset[str]
    used_coupon: bool
    interests: dict[str, float]
    next_items: list[int]
    surprise: float
    distance: float
    write_lookalike: bool
    hours: np.ndarray
    weekdays: np.ndarray
    category_affinity: dict[str, float]
    moved_categories: list[tuple[str, float, float]]
    category_divergence: float | None
    embedding: np.ndarray
    value_curves: dict[str, Any]
    matches: list[RuleMatch]
    flags: list[Flag]


def assemble(
    inputs: ProfileInputs,
    scores: Scores,
    model: ProfileModel,
    before: FeatureColumns,
    after: FeatureColumns,
    matches: list[list[RuleMatch]],
    flags: list[list[Flag]],
    segments: SegmentSet,
    attributes: Sequence[Mapping[str, AttributeValue]],
    recommends: Sequence[bool],
    settings: Settings,
) -> tuple[list[ProfileRow], Evaluation]:
    """Returns the rows to store, in the order of the inputs, and their segments.

    matches, flags: of each row, the rules that are true and the flags that they raise;
    attributes: of each row, what others state about the user (empty: nothing). recommends: of each
    row, whether the user gets recommendations; others have no interests and no next items.
    """
    cosine = np.einsum("nd,nd->n", scores.embedding_before, scores.embedding_after)
    distance = np.round(np.clip(1.0 - cosine, 0.0, 2.0).astype(np.float64), _DECIMALS)
    category_affinity = affinity.category_affinity(
        inputs.histories.tokens,
        inputs.windows.tokens,
        inputs.window_start_ms,
        inputs.window_end_ms,
        settings.state.decay_days,
    )
    interests = [
        row if recommended else {}
        for row, recommended in zip(
            probabilities_by_name(
                model.categories, scores.interests_after, scores.interests_after_p
            ),
            recommends,
            strict=True,
        )
    ]
    next_items = scores.next_items.tolist()
    used_coupon = _coupon_users(inputs)
    # Coupons, interests and affinity before the window are not computed: those after it count.
    evaluation_before, evaluation = (
        evaluate(
            segments,
            segment_inputs(
                features,
                used_coupon,
                inputs.window_end_ms,
                interests,
                category_affinity.shares,
                attributes,
            ),
        )
        for features in (before, after)
    )
    segments_before, segments_after = (
        each.names("ACTIVE") for each in (evaluation_before, evaluation)
    )
    windows_seen = after.column("windows")
    # A row of user_lookalike (indexed by vector and by segment) costs ten times a row of the other
    # tables. It is written if the segments change, if the embedding moves far, and every
    # LOOKALIKE_REFRESH_WINDOWS windows for small changes that add up. A user who is still new has
    # no row; leaving the segment "new" writes the first one.
    write_lookalike = (windows_seen > NEW_USER_WINDOWS) & (
        np.array(
            [old != new for old, new in zip(segments_before, segments_after, strict=True)], bool
        )
        | (distance >= LOOKALIKE_DISTANCE)
        | (windows_seen % LOOKALIKE_REFRESH_WINDOWS == 0)
    )
    columns = _RowValues(
        user_id=inputs.user_id,
        start_ms=inputs.window_start_ms.tolist(),
        end_ms=inputs.window_end_ms.tolist(),
        window=inputs.windows.rows,
        counts=inputs.windows.counts.tolist(),
        events=inputs.windows.tokens.sizes.tolist(),
        amount=inputs.windows.amount.tolist(),
        return_amount=inputs.windows.return_amount.tolist(),
        before=before.values.tolist(),
        after=after.values.tolist(),
        segments=segments_after,
        used_coupon=used_coupon.tolist(),
        interests=interests,
        next_items=[
            row if recommended else []
            for row, recommended in zip(next_items, recommends, strict=True)
        ],
        surprise=scores.surprise.tolist(),
        distance=distance.tolist(),
        write_lookalike=write_lookalike.tolist(),
        hours=np.round(inputs.after.activity_hour, 4),
        weekdays=np.round(inputs.after.activity_weekday, 4),
        category_affinity=category_affinity.shares,
        moved_categories=category_affinity.shifts,
        category_divergence=category_affinity.divergence,
        embedding=scores.embedding_after,
        value_curves=_value_curves(scores),
        matches=matches,
        flags=flags,
    )
    rows = [_profile_row(_RowValues(*row), model) for row in zip(*columns, strict=True)]
    return rows, evaluation


def _profile_row(row: _RowValues, model: ProfileModel) -> ProfileRow:
    window = row.window
    current = dict(zip(FEATURES, row.after, strict=True))
    profile = {
        "features": current,
        "used_coupon": row.used_coupon,
        "activity_hour": row.hours,
        "activity_weekday": row.weekdays,
        "category_affinity": row.category_affinity,
        "interests": row.interests,
        "next_items": [model.items[item] for item in row.next_items],
        **row.value_curves,
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
        "moved_categories": row.moved_categories,
        "category_divergence": row.category_divergence,
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
        recency_days=None if np.isnan(recency) else recency,
        purchases_decayed=current["purchases_decayed"],
        amount_decayed=current["amount_decayed"],
        segments=sorted(row.segments),
        profile=orjson.dumps(profile, option=_JSON),
        embedding=row.embedding,
        events=row.events,
        amount=row.amount,
        embedding_distance=row.distance,
        active_rules=sorted(match.rule.id for match in row.matches),
        delta=orjson.dumps(delta, option=_JSON),
        digests=window.digests,
        events_total=int(current["events"]),
        write_lookalike=row.write_lookalike,
        flags=row.flags,
    )


def _value_curves(scores: Scores) -> list[dict[str, Any]]:
    """Returns what each profile stores under `value_curves.KEY`."""
    curves = scores.value_curves
    fixed = {"after_days": curves.after_days, "horizon_days": curves.horizon_days}
    return [
        {value_curves.KEY: fixed | dict(zip(value_curves.VALUES, row, strict=True))}
        for row in zip(*(curves.values_BHK[name] for name in value_curves.VALUES), strict=True)
    ]


def _media(window: Window) -> dict[str, list[str]]:
    """Returns the delta's entry `media`: the encoders whose vectors the model read, if any."""
    names = sorted(modality.name for modality in window.modalities.vectors if modality != PLACE)
    return {"media": names} if names else {}


def read_baselines(
    added: np.ndarray, sums: np.ndarray, start_ms: np.ndarray, end_ms: np.ndarray, decay_days: float
) -> tuple[Baselines, Baselines]:
    """Returns the baselines before and after the window.

    added, sums: (n, len(baselines.COLUMNS)), the window's part of the sums and the sums with it.
    start_ms, end_ms: (n,) of the window.
    """
    return (
        baselines.read_baselines(sums - added, start_ms, decay_days),
        baselines.read_baselines(sums, end_ms, decay_days),
    )
