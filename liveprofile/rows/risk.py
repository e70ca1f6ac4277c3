"""Tables of scored events, risk flags, what analysts do with them, and drift."""

import zlib
from typing import Annotated, NamedTuple

from typing_extensions import Doc

from liveprofile.rows.table import (
    BY_DAY,
    BY_USER,
    ZSTD,
    Double,
    FixedLimit,
    Int,
    Json,
    JsonList,
    Text,
    TextSet,
    Timestamp,
    Users,
    table,
)
from liveprofile.units import HOUR_MS

FLAG_BUCKETS = 8


def flag_bucket(user_id: str) -> int:
    """The bucket, 0 to FLAG_BUCKETS - 1, that stores a user's flags of a day."""
    return zlib.crc32(user_id.encode()) % FLAG_BUCKETS


def score_hour_ms(event_ms: int) -> int:
    """The start of the hour whose partition stores an event of this time."""
    return event_ms - event_ms % HOUR_MS


class StoredFlag(NamedTuple):
    """A row of risk_flag or risk_flag_by_day. For an event's flag, both times are the event's."""

    user_id: Text
    window_start_ms: Timestamp
    window_end_ms: Timestamp
    rule_id: Text
    flag_id: Text
    reason: Text
    severity: Text
    action: Text
    value: Double
    threshold: Double
    message: Text
    evidence: Annotated[Json, Doc("JSON")]
    model_version: Text
    rules_version: Text
    event_id: Annotated[Text, Doc("empty for the flag of a window")] = ""
    rule_version: Int | None = None
    rule_state: Annotated[Text, Doc("ACTIVE, or SHADOW: no alert was sent")] = "ACTIVE"
    reasons: Annotated[JsonList, Doc("JSON: code, value, usual (or null), sentence")] = ()
    correction: Annotated[
        Text | None,
        Doc(
            "by a correction of late events: ADDED, no alert was sent; WITHDRAWN, the flag would"
            " not have been raised; KEPT, a withdrawal was taken back"
        ),
    ] = None
    corrected_at_ms: Annotated[Timestamp | None, Doc("wall clock of the last correction")] = None


RISK_FLAG = table(
    "risk_flag",
    """Risk flags of a user, newest first. For an event's flag, window_start and window_end are the
    event's time. Flags are rare, so the index, which finds a flag by the id of its alert, costs
    little.""",
    StoredFlag,
    "user_id, window_end DESC, rule_id, event_id",
    limit="cassandra.flag_ttl_s",
    holds="risk flags with evidence",
    users=Users("user", of_windows=True, lists_keys=True),
    indexes=("risk_flag_id (flag_id) USING 'sai'",),
)

RISK_FLAG_BY_DAY = table(
    "risk_flag_by_day",
    """The same flags by UTC day of the window's end. A day has 8 buckets by user, so that many
    flags on one day do not make one huge partition.""",
    StoredFlag,
    "(day, bucket), window_end DESC, user_id, rule_id, event_id",
    more="""
    day date
    bucket tinyint -- crc32(user_id) % 8
    """,
    limit="cassandra.flag_ttl_s",
    holds="the same flags by day",
    users=Users("flag days", of_windows=True),
)


class StoredScore(NamedTuple):
    """A row of risk_score_by_hour: one scored event. The last five are None if it has none."""

    user_id: Text
    event_time_ms: Timestamp
    event_id: Text
    event_type: Text
    amount: Double
    score: Annotated[Double, Doc("probability of fraud, 0 to 1")]
    model_version: Text
    rules_version: Text
    active_rules: TextSet
    device_id: Text | None
    place: Annotated[
        Text | None, Doc("a cell of about a kilometre: floor(lat * 100):floor(lon * 100)")
    ]
    shop_id: Text | None
    coupon_id: Text | None
    address_id: Text | None


RISK_SCORE_BY_HOUR = table(
    "risk_score_by_hour",
    """Every scored event, newest first: the fraud model's probability, the rules that were true,
    and the entities that the event shares with other users. A partition has one hour of a user, so
    that a user with millions of events has none that is unbounded.""",
    StoredScore,
    "(user_id, hour), event_time DESC, event_id",
    more="hour timestamp -- the UTC hour of event_time",
    limit="scoring.score_ttl_s",
    holds="fraud scores of events",
    users=Users("hours"),
    options=(BY_DAY, ZSTD),
)

RISK_SCORE_HOURS = table(
    "risk_score_hours",
    """The hours in which a user has scored events, newest first. A row outlives the last of them
    by at most an hour.""",
    """
    user_id text
    hour timestamp
    """,
    "user_id, hour DESC",
    limit="scoring.score_ttl_s",
    holds="hours with scored events",
    users=Users("user", lists_keys=True),
    options=(BY_DAY,),
    more_ms=HOUR_MS,
)

FLAG_STATE = table(
    "flag_state",
    """What analysts decided about a flag (static columns) and its changes, newest first. Both are
    in one partition, so that one conditional batch writes both or neither. A flag without a row is
    open. Times here and in the next three tables are wall-clock times.""",
    """
    flag_id text
    changed_at timeuuid
    user_id text static
    rule_id text static
    window_start timestamp static
    window_end timestamp static
    state text static -- acknowledged, confirmed, false_positive, closed
    analyst text static
    updated_at timestamp static
    note text static
    from_state text
    to_state text
    changed_by text
    change_note text
    """,
    "flag_id, changed_at DESC",
    limit="cassandra.flag_ttl_s",
    holds="what analysts decided about flags",
    users=Users("user_id", about="window_start"),
)

RISK_SNOOZE = table(
    "risk_snooze",
    "Rules that are snoozed for a user. Rows expire by their TTL.",
    """
    user_id text
    rule_id text -- * for all rules
    until timestamp
    analyst text
    note text
    """,
    "user_id, rule_id",
    limit=FixedLimit.SNOOZE_END,
    holds="rules that send no alerts for now",
    users=BY_USER,
)

RISK_CASE = table(
    "risk_case",
    """Cases of customer service. A user and rule have at most one open case, the one with the
    highest number. INSERT ... IF NOT EXISTS reserves a new number. A case expires
    cassandra.case_ttl_s after its last change, which writes the whole row.""",
    """
    user_id text
    rule_id text
    number int
    state text -- open, closed
    opened_at timestamp
    updated_at timestamp
    severity text -- severity, action and message are those of the first alert
    action text
    message text
    alerts frozen<map<text, timestamp>> -- alert id to time; frozen, so that IF can compare it
    closed_by text
    """,
    "user_id, rule_id, number DESC",
    limit="cassandra.case_ttl_s",
    holds="cases of customer service",
    users=Users("user", lists_keys=True, row_by_row=True, about="alerts"),
)

ALERT_HANDLED = table(
    "alert_handled",
    """The handlers of each consumer that have processed an alert. A copy of the alert after the
    row has expired is processed again.""",
    """
    alert_id text
    consumer text -- the consumer group
    handler text
    handled_at timestamp
    """,
    "(alert_id, consumer), handler",
    limit=FixedLimit.MONTH,
    holds="which consumers have processed an alert",
    users=Users("alert_id", about="alert_id"),
)

RISK_HISTOGRAM = table(
    "risk_histogram",
    """Drift of the fraud model's inputs and scores, by event time: events in each bin of each
    monitored distribution, by hour and worker. The bins belong to one reference. Counts of the
    same hour and reference can be added.""",
    """
    day date
    reference text
    hour timestamp
    worker text -- new at each start of a worker
    counts blob -- big-endian 32-bit: distributions x bins, running totals
    """,
    "day, reference, hour, worker",
    limit="scoring.score_ttl_s",
    holds="counts over all users",
    options=(BY_DAY,),
)

DRIFT_STATE = table(
    "drift_state",
    """The drift state of a scope, the version of a reference (static columns), and each decision
    about it. The scope 'start' holds only the first hours of the job. No decision is made soon
    after them.""",
    """
    scope text
    start timestamp -- of the hour
    decided_until timestamp static -- end of the latest; IF compares it, so that one worker decides
    since timestamp static -- start of the drift; null: no drift
    calm_hours int static -- consecutive, while drifting
    alert text static -- the last alert, as JSON
    alert_at timestamp static -- wall clock
    events int
    drifting boolean
    distances text -- JSON: {distribution: [distance, drift threshold]}
    """,
    "scope, start DESC",
    limit="cassandra.flag_ttl_s",
    holds="distances between distributions",
)

RULE_PROPOSAL = table(
    "rule_proposal",
    """Rules that one person proposes in the console and another approves. IF compares the state,
    so that one decision counts.""",
    """
    kind text -- rules
    proposal_id timeuuid -- with the time of the proposal
    proposed_by text -- name of the key
    note text
    base_tag text -- of the rules in force that it changes
    rules text -- JSON: all rules
    state text -- open, approved (being applied), applied, refused, outdated
    decided_by text
    decided_at timestamp
    """,
    "kind, proposal_id DESC",
    limit=FixedLimit.MONTH,
    holds="definitions of rules, with the names of who proposed and approved them",
)
