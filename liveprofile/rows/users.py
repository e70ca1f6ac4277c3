"""Tables of segments, of campaigns, and of what users and other systems state."""

from __future__ import annotations

import zlib

from liveprofile.rows.table import BY_USER, FixedLimit, Users, table
from liveprofile.units import DAY_MS

SEGMENT_BUCKETS = 64  # a segment of ten million users has 156,000 rows a partition


def segment_bucket(user_id: str) -> int:
    """The bucket, 0 to SEGMENT_BUCKETS - 1, that holds the user."""
    return zlib.crc32(user_id.encode()) % SEGMENT_BUCKETS


_MEMBERSHIP = """
    user_id text
    segment text
    member boolean
    since timestamp -- of the last change: window end or time of the sweep
    number int -- of changes
    announced boolean -- member, as of the last event that was sent
    window_end timestamp -- of the profile that was evaluated
    version int -- of the definition
    sweep text -- the sweep that made the last change; empty for the job
    reason text -- JSON of the last change: cause, values
"""

USER_SEGMENT = table(
    "user_segment",
    """Whether a user is in each segment that has ever been true. The job and `liveprofile segments
    sweep` write it when it changes, and when the row is old. A sweep writes later than the profile
    that it evaluated and than the row that it replaces, and earlier than the user's next window. A
    row outlives the profile, so that a sweep finds who has left.""",
    _MEMBERSHIP,
    "user_id, segment",
    limit="cassandra.profile_ttl_s",
    times=2,
    holds="segments with reasons",
    users=Users("user", of_windows=True, lists_keys=True),
)

SEGMENT_MEMBER = table(
    "segment_member",
    "The members of a segment, in 64 buckets. A user who leaves is deleted.",
    """
    segment text
    bucket smallint -- crc32(user_id) % 64
    user_id text
    since timestamp
    """,
    "(segment, bucket), user_id",
    limit="cassandra.profile_ttl_s",
    times=2,
    holds="membership by segment",
    users=Users("segments", of_windows=True),
)

SEGMENT_CHANGE = table(
    "segment_change",
    "The changes of a user's segments, newest first.",
    _MEMBERSHIP,
    "user_id, segment, since DESC",
    limit="cassandra.profile_ttl_s",
    holds="changes of segments",
    users=Users("user", of_windows=True, lists_keys=True),
)

SEGMENT_SWEEP = table(
    "segment_sweep",
    """The sweep that runs or ran last (one row, 'last'): who may go on with it, and where. IF
    compares owner, so that only one process sweeps.""",
    """
    name text
    owner text
    lease_until timestamp -- another process may go on after this time; wall clock
    state text -- JSON: time, definitions, position in the ring of tokens, counts so far
    finished boolean
    """,
    "name",
    limit="cassandra.flag_ttl_s",
    holds="the state of a sweep over all users",
)

SEGMENT_SIZE = table(
    "segment_size",
    "The size of each segment at the end of each sweep, newest first.",
    """
    segment text
    time timestamp -- of the sweep
    members bigint
    users bigint -- all users
    """,
    "segment, time DESC",
    limit="cassandra.flag_ttl_s",
    holds="numbers of members",
)

USER_ATTRIBUTE = table(
    "user_attribute",
    """What others state about users. `liveprofile attributes apply` writes it, not the job.
    USING TIMESTAMP is the statement's time; each write also deletes the source's older
    statements, so that a late one stays hidden. A row is a statement: the newest of a
    source counts, and the reader chooses among sources.""",
    """
    user_id text
    source text
    time timestamp -- when it became true or was found
    digest blob -- of the content: contradicting statements of one time are two rows
    kind text -- verified, declared, third_party
    purpose text -- any, marketing, risk
    expires timestamp -- the row stays 30 days longer
    attributes text -- JSON: bool, number or short text by name
    """,
    "user_id, source, time DESC, digest",
    limit=FixedLimit.MONTH,
    more_ms=3_660 * DAY_MS,
    holds="what other systems state about the user",
    users=BY_USER,
)

USER_CONSENT = table(
    "user_consent",
    """Each change of each consent. A command or the API writes it, and then the topic of consents,
    which the job reads. USING TIMESTAMP is the time of the change, and a microsecond more for a
    withdrawal, which wins over a grant of the same time.""",
    """
    user_id text
    time timestamp
    purpose text -- profiling, recommendation, marketing, risk, training
    granted boolean
    basis text -- such as consent or contract
    text_version text -- of the text that the user has read
    """,
    "user_id, time DESC, purpose",
    limit="topics.decisions_retention_ms",
    holds="consents by purpose",
    users=Users("user", kept="proof of consents"),
)

ERASURE = table(
    "erasure",
    "The last run of `liveprofile privacy erase` over the tables, for each erased user.",
    """
    user_id text
    before timestamp -- of the erasure in the topic of erasures
    deleted_at timestamp
    remaining text -- JSON: rows that could not be deleted yet, by table
    """,
    "user_id",
    limit="topics.decisions_retention_ms",
    holds="whether an erased user's rows are deleted",
    users=Users("user", kept="proof of erasures"),
)

DECISION_TOPIC = table(
    "decision_topic",
    """The topics of consents and erasures that hold all that their tables hold, and the one of
    merges. Another topic of the same name is filled from its table before the job takes it; of
    merges, it is refused.""",
    """
    topic text
    topic_id text -- Kafka's, new whenever the topic is created
    """,
    "topic",
    limit="topics.decisions_retention_ms",
    holds="ids of topics",
)

CAMPAIGN_CONTACT = table(
    "campaign_contact",
    """The treatment groups of planned campaigns; frequency caps count the rows. USING TIMESTAMP is
    the campaign's start, so writing a contact again changes nothing.""",
    """
    user_id text
    start timestamp
    campaign text
    window_start timestamp -- of the profile that the plan was made with
    """,
    "user_id, start DESC, campaign",
    limit="cassandra.history_ttl_s",
    holds="contacts of campaigns",
    users=Users("user", row_by_row=True, about="window_start"),
)

CAMPAIGN_PLAN = table(
    "campaign_plan",
    "Planned campaigns. The name is taken by IF NOT EXISTS.",
    """
    campaign text
    plan_id uuid
    start timestamp -- event time from which on outcomes count
    control_share double
    cost double -- of a contact
    planned_at timestamp
    planned_by text
    requested text -- JSON
    summary text -- JSON
    """,
    "campaign",
    limit="cassandra.history_ttl_s",
    holds="campaigns with counts of users",
)

CAMPAIGN_TARGET = table(
    "campaign_target",
    "The users of a plan. They are stored before the row of campaign_plan that has their plan_id.",
    """
    plan_id uuid
    bucket int -- CRC-32 of user_id modulo 64
    user_id text
    arm text -- treatment, control
    segments set<text> -- when the plan was made
    churn double
    expected_spend double
    expected_gain double
    window_start timestamp -- of the profile that the plan was made with
    """,
    "(plan_id, bucket), user_id",
    limit="cassandra.history_ttl_s",
    holds="users of plans of campaigns",
    users=Users("user_id", row_by_row=True, about="window_start"),
)
