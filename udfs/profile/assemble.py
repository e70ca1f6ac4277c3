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
from liveprofile.attributes import computed
from liveprofile.events.modalities import PLACE
from liveprofile.events.window import Window, WindowBatch
from liveprofile.features import affinity, baselines
from liveprofile.features.baselines import Baselines
from liveprofile.rules.conditions import AttributeValue
from liveprofile.rules.flag_policy import RuleMatch
from liveprofile.rules.flags import Flag
from liveprofile.segments.evaluation import Evaluation, evaluate
from liveprofile.segments.features import PROFILE_FEATURES, SegmentInputs, features_at
from liveprofile.segments.segments import SegmentSet
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import Histories
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX
from models.profile import user_features
from udfs.profile.row import ProfileRow

LOOKALIKE_REFRESH_WINDOWS = 16

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores

FEATURE_VERSION = 1
FEATURES = tuple(PROFILE_FEATURES)
NEW_USER_WINDOWS = 3
_DECIMALS = 6
_JSON = orjson.OPT_SERIALIZE_NUMPY
Columns = dict[str, np.ndarray]  # (n,) float64 for each of FEATURES, NaN where it is undefined


class ProfileInputs(NamedTuple):
    """n parsed rows of `jobs.sql.profile_views.profile_input`."""

    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray  # (n,) int64
    windows: WindowBatch
    histories: Histories
    before: Baselines  # without the window, at the window's start
    after: Baselines  # with the window, at the window's end
    computed: Sequence[str] = ()  # as of ProfileBatch


def _recency(inputs: ProfileInputs) -> tuple[np.ndarray, np.ndarray]:
    """(n,) days since the last purchase before the window, and with it."""
    histories = inputs.histories
    return (
        user_features.recency_days(inputs.window_start_ms, histories.last_purchase_ms),
        user_features.recency_days(inputs.window_end_ms, histories.last_purchase_ms_now),
    )


def numeric_inputs(inputs: ProfileInputs) -> tuple[np.ndarray, np.ndarray]:
    """Returns the model's numeric inputs before and after the window (user_features.py)."""
    history = user_features.summarize_activity(inputs.histories.tokens, inputs.window_start_ms)
    window = user_features.summarize_activity(inputs.windows.tokens, inputs.window_end_ms)
    days = (inputs.window_end_ms - inputs.window_start_ms) / DAY_MS
    recency_before, recency_after = _recency(inputs)
    return (
        user_features.feature_matrix(inputs.before, recency_before, history),
        user_features.feature_matrix(
            inputs.after, recency_after, user_features.add_window(history, window, days)
        ),
    )


def features_before_and_after(inputs: ProfileInputs, scores: Scores) -> tuple[Columns, Columns]:
    """Returns the features before and after the window."""
    before, after = _recency(inputs)
    return (
        _features(inputs.before, before, scores.churn_before, scores.spend_before),
        _features(inputs.after, after, scores.churn_after, scores.spend_after),
    )


def _features(
    base: Baselines, recency: np.ndarray, churn: np.ndarray, spend: np.ndarray
) -> Columns:
    known = {"recency_days": recency, "churn": churn, "expected_spend": spend}
    columns = {name: known[name] if name in known else getattr(base, name) for name in FEATURES}
    return {
        name: np.round(column.astype(np.float64), _DECIMALS) for name, column in columns.items()
    }


def _coupon_users(inputs: ProfileInputs) -> np.ndarray:
    tokens = inputs.histories.tokens
    users = np.array([window.used_coupon for window in inputs.windows.rows], bool)
    users[tokens.row_of[tokens.type_index == TYPE_INDEX["coupon"]]] = True
    return users


def probabilities_by_name(
    names: list[str], index: np.ndarray, p: np.ndarray
) -> list[dict[str, float]]:
    """The interests of n rows as they are stored. index, p: (n, k); -1: no more."""
    return [
        {names[i]: p for i, p in zip(ids, ps, strict=True) if i >= 0}
        for ids, ps in zip(index.tolist(), np.round(p.astype(np.float64), 4).tolist(), strict=True)
    ]


def assemble(
    inputs: ProfileInputs,
    scores: Scores,
    model: ProfileModel,
    before: Columns,
    after: Columns,
    matches: list[list[RuleMatch]],
    flags: list[list[Flag]],
    segments: SegmentSet,
    attributes: Sequence[Mapping[str, AttributeValue | None]],
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
    affinities = affinity.category_affinity(
        inputs.histories.tokens,
        inputs.windows.tokens,
        inputs.window_start_ms,
        inputs.window_end_ms,
        settings.state.decay_days,
    )
    served = probabilities_by_name(
        model.categories, scores.interests_after, scores.interests_after_p
    )
    interests = [row if yes else {} for row, yes in zip(served, recommends, strict=True)]
    used_coupon, end_ms = _coupon_users(inputs), inputs.window_end_ms
    evaluation = evaluate(
        segments,
        SegmentInputs(
            features_at(after, used_coupon, end_ms, end_ms, decay_days=1.0),
            interests,
            affinities.shares,
            attributes,
        ),
    )
    names = evaluation.names("ACTIVE")
    # The index of the vector makes a row of user_lookalike cost ten times a row of other tables.
    later_windows = after["windows"] - NEW_USER_WINDOWS - 1
    write_lookalike = (later_windows >= 0) & (later_windows % LOOKALIKE_REFRESH_WINDOWS == 0)
    hours = np.round(inputs.after.activity_hour, 4)
    weekdays = np.round(inputs.after.activity_weekday, 4)
    next_items, curves = scores.next_items.tolist(), _value_curves(scores)
    features = [
        [
            dict(zip(FEATURES, row, strict=True))
            for row in np.column_stack([*columns.values()]).tolist()
        ]
        for columns in (before, after)
    ]
    sizes, type_counts = inputs.windows.tokens.sizes.tolist(), inputs.windows.counts.tolist()
    rows = []
    for n, (window, earlier, current) in enumerate(
        zip(inputs.windows.rows, *features, strict=True)
    ):
        profile = {
            "features": current,
            "used_coupon": bool(used_coupon[n]),
            "activity_hour": hours[n],
            "activity_weekday": weekdays[n],
            "category_affinity": affinities.shares[n],
            "interests": interests[n],
            "next_items": [
                model.items[item] for item in next_items[n] if recommends[n] and item >= 0
            ],
            value_curves.KEY: curves[n],
            computed.KEY: orjson.Fragment(inputs.computed[n] or "{}"),
            "last": {
                "device": window.last_device,
                "channel": window.last_channel,
                "place": window.last_place,
                "tags": window.tags,
            },
        }
        events, counts, amount = sizes[n], type_counts[n], float(inputs.windows.amount[n])
        delta = {
            "before": earlier,
            "after": current,
            "moved_categories": affinities.shifts[n],
            "category_divergence": affinities.divergence[n],
            "window": {
                "events": events,
                "counts": {
                    name: count for name, count in zip(EVENT_TYPES, counts, strict=True) if count
                },
                "amount": amount,
                "return_amount": float(inputs.windows.return_amount[n]),
                "items": window.items,
                "categories": window.categories,
                "devices": window.devices,
                "sessions": window.sessions,
                **_media(window),
            },
        }
        recency = current["recency_days"]  # NaN without a purchase
        rows.append(
            ProfileRow(
                user_id=inputs.user_id[n],
                window_start_ms=int(inputs.window_start_ms[n]),
                window_end_ms=int(end_ms[n]),
                model_version=model.version,
                feature_version=FEATURE_VERSION,
                revision=model.revision,
                churn=current["churn"],
                expected_spend=current["expected_spend"],
                surprise=float(scores.surprise[n]),
                recency_days=recency if recency == recency else None,
                purchases_decayed=current["purchases_decayed"],
                amount_decayed=current["amount_decayed"],
                segments=sorted(names[n]),
                profile=orjson.dumps(profile, option=_JSON),
                embedding=scores.embedding_after[n],
                events=events,
                amount=amount,
                embedding_distance=float(distance[n]),
                active_rules=sorted(match.rule.id for match in matches[n]),
                delta=orjson.dumps(delta, option=_JSON),
                digests=window.digests,
                events_total=int(current["events"]),
                write_lookalike=bool(write_lookalike[n]),
                flags=flags[n],
            )
        )
    return rows, evaluation


def _value_curves(scores: Scores) -> list[dict[str, Any]]:
    """Returns what each profile stores under `value_curves.KEY`."""
    curves = scores.value_curves
    fixed = {"after_days": curves.after_days, "horizon_days": curves.horizon_days}
    columns = (curves.values_BHK[name] for name in value_curves.VALUES)
    return [
        fixed | dict(zip(value_curves.VALUES, row, strict=True))
        for row in zip(*columns, strict=True)
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
