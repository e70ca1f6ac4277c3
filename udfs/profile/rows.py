"""The row that the profile pipeline stores for one window of one user: its values, its encoding.

docs/data-contract.md, sections 4 and 5. Shapes: n rows, d embedding dimensions.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from liveprofile import value_curves
from liveprofile.events.modalities import PLACE
from liveprofile.events.window import Window
from liveprofile.rows.profiles import (
    LATER_SUMS,
    MARKS,
    NEW_USER_WINDOWS,
    PROFILE_DELTA,
    USER_LOOKALIKE,
    USER_PROFILE,
)
from liveprofile.rows.table import Column, Table
from liveprofile.wire.attribute_tiles import TILES_KEY
from liveprofile.wire.tokens import EVENT_TYPES
from udfs.cassandra.encoding import Values, encode_column, encode_numbers, encode_row, write_time_us
from udfs.profile.decide import Decisions
from udfs.profile.inputs import FEATURES, Columns, ProfileInputs

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores

FEATURE_VERSION = 1
LOOKALIKE_REFRESH_WINDOWS = 16
_DECIMALS = 6
_JSON = orjson.OPT_SERIALIZE_NUMPY

# What is written of a window: the job leaves a delta's marks to corrections.
WRITTEN = {
    table.name: [column for column in table.columns.values() if column.name not in MARKS]
    for table in (USER_PROFILE, PROFILE_DELTA, USER_LOOKALIKE)
}
_STORED = [*WRITTEN[USER_PROFILE.name], *WRITTEN[PROFILE_DELTA.name]]
_OTHERS = ("revision", "write_lookalike", "flags", "memberships", "later_sums", "index_segments")


class ProfileRow(
    namedtuple(
        "ProfileRow",
        (*dict.fromkeys(column.field for column in _STORED), *_OTHERS),
        defaults=((), None, False),
    )
):
    """One window of one user: the new profile, its change and the flags that were raised.

    The fields of UserProfile and StoredDelta (liveprofile/rows/profiles.py) without the marks of
    corrections, with JSON as UTF-8 bytes and the embedding as (dim,) float32, and:

    revision: of the model or its deployment, 0 to 999,999; it orders the writes of one window.
    write_lookalike: whether user_lookalike gets a row too.
    flags: list[Flag].
    memberships: Sequence[MembershipWrite], of segments that changed.
    later_sums: of a user who was erased, the sums since then, a tuple in the order of
    liveprofile.features.baselines.COLUMNS; otherwise None.
    """

    __slots__ = ()


def build_rows(
    inputs: ProfileInputs, scores: Scores, decisions: Decisions, model: ProfileModel
) -> list[ProfileRow]:
    """Returns the rows to store, in the order of the inputs."""
    after, knows_user = decisions.after, decisions.knows_user
    cosine = np.einsum("nd,nd->n", scores.embedding_before, scores.embedding_after)
    distance = np.round(np.clip(1.0 - cosine, 0.0, 2.0).astype(np.float64), _DECIMALS)
    # The index of the vector makes a row of user_lookalike cost ten times a row of other tables.
    later_windows = after["windows"] - NEW_USER_WINDOWS - 1
    write_lookalike = knows_user & (later_windows % LOOKALIKE_REFRESH_WINDOWS == 0)
    before_rows, after_rows = _feature_rows(decisions.before), _feature_rows(after)
    profiles = _profiles(inputs, scores, decisions, model.items, after_rows)
    deltas = _deltas(inputs, decisions, before_rows, after_rows)
    start_ms, end_ms = inputs.window_start_ms.tolist(), inputs.window_end_ms.tolist()
    surprise, amount = scores.surprise.tolist(), inputs.windows.amount.tolist()
    sizes, distance, write_lookalike, knows_user = (
        column.tolist()
        for column in (inputs.windows.tokens.sizes, distance, write_lookalike, knows_user)
    )
    rows = []
    for n, (window, current) in enumerate(zip(inputs.windows.rows, after_rows, strict=True)):
        recency, memberships = current["recency_days"], decisions.memberships[n]
        rows.append(
            ProfileRow(
                user_id=inputs.user_id[n],
                window_start_ms=start_ms[n],
                window_end_ms=end_ms[n],
                model_version=model.version,
                feature_version=FEATURE_VERSION,
                revision=model.revision,
                churn=current["churn"],
                expected_spend=current["expected_spend"],
                surprise=surprise[n],
                recency_days=None if math.isnan(recency) else recency,  # NaN without a purchase
                purchases_decayed=current["purchases_decayed"],
                amount_decayed=current["amount_decayed"],
                segments=sorted(decisions.segments[n]),
                profile=profiles[n],
                embedding=scores.embedding_after[n],
                events=sizes[n],
                amount=amount[n],
                embedding_distance=distance[n],
                active_rules=sorted(match.rule.id for match in decisions.matches[n]),
                delta=deltas[n],
                digests=window.digests,
                events_total=int(current["events"]),
                write_lookalike=write_lookalike[n],
                flags=decisions.flags[n],
                memberships=memberships,
                later_sums=inputs.later_sums[n],
                # A user who is still new has no row there.
                index_segments=knows_user[n] and any(write.is_change for write in memberships),
            )
        )
    return rows


def _feature_rows(columns: Columns) -> list[dict[str, float]]:
    rows = np.column_stack([columns[name] for name in FEATURES]).tolist()
    return [dict(zip(FEATURES, row, strict=True)) for row in rows]


def _profiles(
    inputs: ProfileInputs,
    scores: Scores,
    decisions: Decisions,
    items: list[str],
    features: list[dict[str, float]],
) -> list[bytes]:
    """The JSON of n profiles. items: names of the indexes in `scores.next_items`."""
    hours = np.round(inputs.after.activity_hour, 4)
    weekdays = np.round(inputs.after.activity_weekday, 4)
    used_coupon, next_items = decisions.used_coupon.tolist(), scores.next_items.tolist()
    curves = _value_curves(scores)
    return [
        orjson.dumps(
            {
                "features": features[n],
                "used_coupon": used_coupon[n],
                "activity_hour": hours[n],
                "activity_weekday": weekdays[n],
                "category_affinity": decisions.affinities.shares[n],
                "interests": decisions.interests[n],
                "next_items": [items[item] for item in next_items[n] if item >= 0]
                if decisions.recommends[n]
                else [],
                value_curves.KEY: curves[n],
                TILES_KEY: orjson.Fragment(inputs.attribute_tiles[n] or "{}"),
                "last": {
                    "device": window.last_device,
                    "channel": window.last_channel,
                    "place": window.last_place,
                    "tags": window.tags,
                },
            },
            option=_JSON,
        )
        for n, window in enumerate(inputs.windows.rows)
    ]


def _deltas(
    inputs: ProfileInputs,
    decisions: Decisions,
    before: list[dict[str, float]],
    after: list[dict[str, float]],
) -> list[bytes]:
    """The JSON of n deltas."""
    windows, affinities = inputs.windows, decisions.affinities
    sizes, type_counts = windows.tokens.sizes.tolist(), windows.counts.tolist()
    amounts, return_amounts = windows.amount.tolist(), windows.return_amount.tolist()
    return [
        orjson.dumps(
            {
                "before": before[n],
                "after": after[n],
                "moved_categories": affinities.shifts[n],
                "category_divergence": affinities.divergence[n],
                "window": {
                    "events": sizes[n],
                    "counts": {
                        name: count
                        for name, count in zip(EVENT_TYPES, type_counts[n], strict=True)
                        if count
                    },
                    "amount": amounts[n],
                    "return_amount": return_amounts[n],
                    "items": window.items,
                    "categories": window.categories,
                    "devices": window.devices,
                    "sessions": window.sessions,
                    **_media(window),
                },
            },
            option=_JSON,
        )
        for n, window in enumerate(windows.rows)
    ]


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


class EncodedRows(NamedTuple):
    """One entry for each row: the partition key, and for each table the values of its INSERT."""

    keys: list[bytes]
    profiles: list[Values]
    deltas: list[Values]
    lookalikes: list[Values]


def encode_rows(batch: Sequence[ProfileRow], embedding_dim: int) -> EncodedRows:
    """Encodes a batch column by column, each column once.

    Raises ValueError if an embedding does not have the shape (embedding_dim,).
    """
    fields = dict(zip(ProfileRow._fields, zip(*batch, strict=True), strict=True))
    fields["embedding"] = embeddings = np.stack(fields["embedding"])
    if embeddings.shape[1:] != (embedding_dim,):
        raise ValueError(
            f"embedding of shape {embeddings.shape[1:]}: the tables need ({embedding_dim},)"
        )
    write_time = encode_numbers([write_time_us(row) for row in batch], ">i8")
    encoded: dict[str, list[bytes | None]] = {}

    def column(about: Column) -> list[bytes | None]:
        # The columns of a table without a row class are named like those of the others.
        field = about.field if about.field in fields else f"{about.field}_ms"
        if field not in encoded:
            encoded[field] = encode_column(about, fields[field])
        return encoded[field]

    def values(table: Table) -> list[Values]:
        columns = map(column, WRITTEN[table.name])
        return list(map(list, zip(*columns, write_time, strict=True)))

    profiles, deltas, lookalikes = map(values, (USER_PROFILE, PROFILE_DELTA, USER_LOOKALIKE))
    return EncodedRows(encoded["user_id"], profiles, deltas, lookalikes)


def encode_sums(row: ProfileRow) -> Values:
    """Returns the values of later_sums and the write time."""
    sums = np.array(row.later_sums, ">f8").tobytes()
    values = (row.user_id, row.window_end_ms, sums)
    return encode_row(LATER_SUMS.columns.values(), values, write_time_us(row))
