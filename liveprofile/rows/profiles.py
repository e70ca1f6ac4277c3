"""Tables of profiles and of what each window changed."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from typing_extensions import Doc

from liveprofile.rows.table import (
    BY_DAY,
    BY_WINDOW,
    ZSTD,
    Bigint,
    Blob,
    Double,
    Embedding,
    Int,
    Json,
    Text,
    TextSet,
    Timestamp,
    table,
)


class UserProfile(NamedTuple):
    """A row of user_profile."""

    user_id: Text
    window_start_ms: Timestamp
    window_end_ms: Timestamp
    model_version: Text
    feature_version: Int
    churn: Annotated[Double, Doc("probability of no purchase within the model's horizon")]
    expected_spend: Annotated[
        Double, Doc("median, within the same horizon, in the shop's currency")
    ]
    recency_days: Annotated[Double | None, Doc("since the last purchase; null: none is known")]
    purchases_decayed: Double
    amount_decayed: Double
    events_total: Bigint
    segments: TextSet
    profile: Annotated[Json, Doc("JSON of all other values: features, interests, next_items")]
    embedding: Embedding


USER_PROFILE = table(
    "user_profile",
    """The profile as of the user's last closed window. Every window writes it, so it has no index:
    an index on segments raised the server's cost of a write by a third, an index on the vector by
    several times.""",
    UserProfile,
    "user_id",
    limit="cassandra.profile_ttl_s",
    holds="the profile",
    users=BY_WINDOW,
)


class StoredDelta(NamedTuple):
    """A row of profile_delta: what one window changed."""

    user_id: Text
    window_start_ms: Timestamp
    window_end_ms: Timestamp
    model_version: Text
    events: Int
    amount: Double
    embedding_distance: Annotated[Double, Doc("1 - cosine of the embeddings before and after")]
    surprise: Annotated[Double, Doc("nats")]
    active_rules: TextSet
    delta: Annotated[Json, Doc("JSON: features before and after, moved categories, counts")]
    digests: Annotated[Blob, Doc("8 bytes for each event used")]
    revision: Annotated[
        Int | None, Doc("late events of the user up to this window; null: the job's")
    ] = None
    corrected_at_ms: Annotated[Timestamp | None, Doc("wall clock")] = None
    correction: Annotated[Text | None, Doc("why it was corrected: LATE_EVENTS or MERGED")] = None


# The columns of deltas and flags that only corrections write.
MARKS = ("revision", "corrected_at", "correction")

PROFILE_DELTA = table(
    "profile_delta",
    "The changes of each window, newest first. Only a replay or a correction overwrites rows.",
    StoredDelta,
    "user_id, window_end DESC",
    limit="cassandra.delta_ttl_s",
    holds="what each window changed",
    users=BY_WINDOW,
    options=(BY_DAY, ZSTD),
)

NEW_USER_WINDOWS = 3  # users with up to so many windows have no row in user_lookalike

USER_LOOKALIKE = table(
    "user_lookalike",
    """Users by embedding and by segment. Because of the cost of the indexes, a row is written only
    every 16 windows, and its segments when they have changed.""",
    """
    user_id text
    window_end timestamp
    segments set<text>
    embedding vector<float, {dim}>
    """,
    "user_id",
    limit="cassandra.profile_ttl_s",
    holds="embedding and segments as indexed",
    users=BY_WINDOW,
    indexes=(
        "user_lookalike_embedding (embedding) USING 'sai'"
        " WITH OPTIONS = {'similarity_function': 'cosine'}",
        "user_lookalike_segments (segments) USING 'sai'",
    ),
)

LATER_SUMS = table(
    "later_sums",
    """Users who were erased and came back: the job's sums of each window and those since the
    erasure. A worker that restarts goes on from them, because Flink's own sums include the time
    before.""",
    """
    user_id text
    window_end timestamp
    sums blob -- big-endian doubles in the order of liveprofile.features.baselines.COLUMNS
    """,
    "user_id, window_end DESC",
    limit="cassandra.profile_ttl_s",
    holds="sums of windows since an erasure",
    users=BY_WINDOW,
)
