"""Tables of the read API, of audits, of trends and of chores."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from liveprofile.rows.table import BY_DAY, FixedLimit, Users, table

API_KEY = table(
    "api_key",
    "The keys of the read API. A key expires with its row. Times are wall-clock times.",
    """
    key_id text
    name text -- who uses it; the analyst of what is written with it
    scopes set<text> -- what it may do
    secret_hash blob -- SHA-256; the secret itself is stored nowhere
    created_at timestamp
    created_by text
    expires_at timestamp
    revoked_at timestamp -- null: in force
    """,
    "key_id",
    limit="serve.api_key_ttl_s",
    holds="keys of systems and staff, with their names",
)


class AuditEntry(NamedTuple):
    """An act through API or console. `after`: what is stored now; None: nothing, or not done."""

    key_id: str
    name: str
    action: str
    target: str
    request_id: str
    requested: dict[str, Any]
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    outcome: Literal["started", "done", "refused", "failed"] = "started"
    at_ms: int = 0


API_AUDIT = table(
    "api_audit",
    "Each write through the API: an entry is stored before the write and completed after it.",
    """
    day date -- UTC
    entry timeuuid
    key_id text
    name text
    action text -- alert.state, alert.label, snooze.set, snooze.end, ...
    target text
    request_id text
    requested text -- JSON: what the caller asked for
    before text -- JSON: what was stored; null: nothing
    after text -- JSON: what is stored now; null: nothing, or not completed
    outcome text -- started, done, refused, failed
    """,
    "day, entry DESC",
    limit="cassandra.history_ttl_s",
    holds="writes through the read API",
    users=Users("target", row_by_row=True, about="target"),
    options=(BY_DAY,),
)

API_LISTING = table(
    "api_listing",
    "The users that each key has listed: its daily budget, and the record of these reads.",
    """
    day date -- UTC
    key_id text
    hour timestamp
    route text
    server text -- a process
    name text -- of the key
    users bigint
    """,
    "day, key_id, hour, route, server",
    limit="cassandra.history_ttl_s",
    holds="how many users each key has listed",
)

CONSOLE_SESSION = table(
    "console_session",
    """The sessions of the console. `used` is written again at each use, the rest once: a session
    without a key has ended.""",
    """
    digest blob -- SHA-256 of the token in the cookie
    key_id text
    opened timestamp
    used timestamp
    """,
    "digest",
    limit=FixedLimit.HALF_DAY,
    holds="sessions of staff",
)

AUDIT_RESULT = table(
    "audit_result",
    """What audits of the input topic have found, newest first. USING TIMESTAMP is the time of the
    end.""",
    """
    topic text -- the input topic
    ended timestamp -- wall clock
    ok boolean
    counts text -- JSON: records by what became of them
    next_offsets frozen<map<int, bigint>> -- by partition: where the next audit --new starts
    """,
    "topic, ended DESC",
    limit="cassandra.history_ttl_s",
    holds="counts of records",
)

TREND = table(
    "trend",
    """Counts by series (categories and event types), hour and day. `liveprofile shop trends
    update` writes this table and the next two, not the job. Each row holds the number of the last
    chunk of records that it contains, and USING TIMESTAMP is start in microseconds + that number.
    So counting a chunk again changes nothing.""",
    """
    topic text
    span text -- hour or day
    scope text -- all, category, or other (categories beyond the first 1,000)
    category text -- empty: unknown, or the scope is not category
    event_type text -- a type, or all
    start timestamp
    chunk bigint
    events bigint
    amount double -- of purchases, if event_type is all
    users bigint -- distinct; an estimate if there are many
    user_hashes blob -- 8 bytes each: the smallest, to add later users
    """,
    "(topic, span, scope, category, event_type), start DESC",
    limit="cassandra.history_ttl_s",
    holds="counts; user_hashes holds 8-byte hashes without ids, to count distinct users",
)

TREND_SERIES = table(
    "trend_series",
    "The series that have counts.",
    """
    topic text
    scope text
    category text
    event_type text
    last_hour timestamp -- with events, of the chunk that wrote the row last
    """,
    "topic, scope, category, event_type",
    limit="cassandra.history_ttl_s",
    holds="names of series",
)

TREND_CHUNK = table(
    "trend_chunk",
    """Which records are counted. Only the last chunk may be unfinished. INSERT ... IF NOT EXISTS
    lets one process decide its range.""",
    """
    topic text
    number bigint
    first frozen<map<int, bigint>> -- by partition: offsets
    end frozen<map<int, bigint>>
    clocks frozen<map<int, bigint>> -- by partition: event time in ms
    done boolean
    """,
    "topic, number DESC",
    limit="cassandra.history_ttl_s",
    holds="ranges of records",
)

CHORE = table(
    "chore",
    """The last run of each chore of `liveprofile serve chores`. All rows are in one partition with
    the lease of the process that runs them, which ends unless it is renewed. A partition without
    rows has the lease of the process that changes tables.""",
    """
    scope text -- chores or tables
    name text
    started timestamp -- wall clock
    succeeded timestamp -- when the last run without an error ended; 1970: none has
    error text -- of the last run; empty: none
    holder text static -- of the lease
    """,
    "scope, name",
    limit="cassandra.history_ttl_s",
    holds="times of chores, and the hosts that run them and change tables",
)
