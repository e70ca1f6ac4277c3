"""The sections of the settings: each with its keys, their defaults and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

MOST_STEPS = 300
# Cassandra's limit, 20 years. Every row has a TTL: it bounds the tables, and it decides between two
# writes with equal times (udfs.cassandra.encoding.write_time_us).
MAX_TTL_S = 20 * 365 * 86_400


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _named(name: str, own_of_bootstrap: bool = False) -> Any:
    def full_name(topics: TopicSettings) -> str:
        end = "-bootstrap" if own_of_bootstrap and topics.bootstrap else ""
        return f"{topics.prefix}{name}{end}"

    return property(full_name)


class TopicSettings(Section):
    """Names of topics, and how `liveprofile job setup` creates them."""

    prefix: str = Field(
        "",
        pattern=r"^[\w.-]{0,100}$",
        description="before the name of every topic, so that several jobs can share a cluster",
    )
    partitions: int = Field(
        4, ge=1, le=1000, description="of created topics; definitions and models have one"
    )
    replication: int = Field(
        1,
        ge=1,
        le=10,
        description="of created topics; 3 in production (docs/deploy.md#requirements)",
    )
    retention_ms: int = Field(
        7 * DAY_MS,
        ge=-1,
        description="of created topics, except those below and compacted ones; -1: unlimited",
    )
    labels_retention_ms: int = Field(
        400 * DAY_MS,
        ge=-1,
        description="of labels and attributes",
    )
    decisions_retention_ms: int = Field(
        3_650 * DAY_MS,
        ge=-1,
        description="of consents, erasures and merges: how long a withdrawal counts, a replay does"
        " not bring erased users back, and an id stays an alias; -1: unlimited",
    )

    bootstrap: bool = Field(
        False,
        description="set by `liveprofile events bootstrap`: events, alerts and segment changes of"
        " the past have topics of their own",
    )

    events = _named("behavior-events", own_of_bootstrap=True)
    encoded = _named("behavior-events-encoded")
    rejected = _named("behavior-events-rejected")
    late = _named("behavior-events-late")
    alerts = _named("risk-alerts", own_of_bootstrap=True)
    rules = _named("risk-rules")
    feedback = _named("risk-feedback")
    models = _named("user-models")
    segments = _named("segment-definitions")
    segment_changes = _named("segment-changes", own_of_bootstrap=True)
    attributes = _named("user-attributes")
    consents = _named("user-consents")
    erasures = _named("user-erasures")
    merges = _named("user-merges")


class KafkaSettings(Section):
    bootstrap_servers: str = Field("localhost:9092", description="brokers, separated by commas")
    group_id: str = Field(
        "liveprofile",
        description="consumer group of the job, whose offsets each checkpoint commits; scoring"
        " uses `<group_id>-events`. Two jobs need two groups",
    )
    startup_mode: Literal["earliest", "latest", "group"] = Field(
        "earliest",
        description="where a job without a savepoint starts reading; group: at committed offsets",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="with SSL: TLS"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="with SASL"
    )
    username: str = Field("", description="for PLAIN and SCRAM")
    password: SecretStr = Field(SecretStr(""), description="for PLAIN and SCRAM")
    oauth_token_url: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="token endpoint of OAUTHBEARER (OIDC client credentials)",
    )
    oauth_client_id: str = Field("", description="for the token endpoint")
    oauth_client_secret: SecretStr = Field(SecretStr(""), description="for the token endpoint")
    oauth_scope: str = Field("", description="scope of the token")
    ca_file: str = Field("", description="PEM file of trusted certificates; empty: the system's")
    certificate_file: str = Field("", description="PEM file with the client's certificate chain")
    key_file: str = Field("", description="PEM file with the client's private key (PKCS#8)")
    key_password: SecretStr = Field(SecretStr(""), description="of an encrypted `key_file`")
    request_timeout_ms: int = Field(
        15_000, ge=100, description="of requests that commands send to brokers"
    )

    @model_validator(mode="after")
    def _complete_credentials(self) -> KafkaSettings:
        _check_client_certificate(self)
        if self.certificate_file and not self.uses_tls:
            raise ValueError("certificate_file needs security_protocol SSL or SASL_SSL")
        oauth = {
            name: getattr(self, name)
            for name in ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
        }
        if self.sasl_mechanism != "OAUTHBEARER":
            if any(oauth.values()) or self.oauth_scope:
                raise ValueError("settings oauth_... need sasl_mechanism OAUTHBEARER")
            return self
        if not self.uses_sasl:
            raise ValueError("OAUTHBEARER needs security_protocol SASL_SSL or SASL_PLAINTEXT")
        if missing := [name for name, value in oauth.items() if not value]:
            raise ValueError(f"OAUTHBEARER needs {', '.join(missing)}")
        return self

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def request_timeout_s(self) -> float:
        return self.request_timeout_ms / 1_000


class CassandraSettings(Section):
    contact_points: tuple[str, ...] = Field(
        ("127.0.0.1",), description="addresses of some nodes, a list"
    )
    port: int = Field(9042, ge=1, le=65535, description="of the nodes")
    local_dc: str = Field("datacenter1", description="data centre to read from and write to")
    keyspace: str = Field(
        "liveprofile", pattern=r"^[a-z][a-z0-9_]{0,47}$", description="of all tables"
    )
    replication: int = Field(
        1,
        ge=1,
        le=10,
        description="of a keyspace that the job creates; 3 in production"
        " (docs/deploy.md#requirements)",
    )
    username: str = Field("", description="no authentication without one")
    password: SecretStr = Field(SecretStr(""), description="of the user")
    ca_file: str = Field("", description="PEM file of trusted certificates; empty: no TLS")
    certificate_file: str = Field("", description="PEM file with the client's certificate chain")
    key_file: str = Field("", description="PEM file with the client's private key")
    key_password: SecretStr = Field(SecretStr(""), description="of an encrypted `key_file`")
    consistency: Literal["ONE", "LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="of reads and writes"
    )
    batch_bytes: int = Field(
        40_000,
        ge=256,
        le=40_000,
        description="size of an unlogged batch; the server's limit applies too",
    )
    in_flight: int = Field(32, ge=1, le=1024, description="concurrent requests of a worker")
    request_timeout_ms: int = Field(5_000, ge=100, description="of one request")
    retry_timeout_ms: int = Field(
        60_000, ge=0, description="retry a failing write for this long, then fail the task"
    )
    profile_ttl_s: int = Field(
        180 * 86_400, ge=1, le=MAX_TTL_S, description="of profiles, look-alikes and segment changes"
    )
    delta_ttl_s: int = Field(30 * 86_400, ge=1, le=MAX_TTL_S, description="of `profile_delta`")
    flag_ttl_s: int = Field(
        365 * 86_400,
        ge=1,
        le=MAX_TTL_S,
        description="of flags and their states, `drift_state`, and sizes of segments",
    )
    case_ttl_s: int = Field(
        730 * 86_400,
        ge=1,
        le=MAX_TTL_S,
        description="of a case after its last change",
    )

    history_ttl_s: int = Field(
        400 * 86_400,
        ge=1,
        le=MAX_TTL_S,
        description="of trends, contacts and plans of campaigns, and the audit trail",
    )

    @model_validator(mode="after")
    def _complete_credentials(self) -> CassandraSettings:
        _check_client_certificate(self)
        if self.certificate_file and not self.ca_file:
            raise ValueError("certificate_file needs ca_file, which enables TLS")
        return self


def _check_client_certificate(section: KafkaSettings | CassandraSettings) -> None:
    if bool(section.certificate_file) != bool(section.key_file):
        raise ValueError("certificate_file and key_file need each other")
    if section.key_password and not section.key_file:
        raise ValueError("key_password needs key_file")


class LimitSettings(Section):
    # A character has up to four bytes, and a request to Kafka at most a mebibyte.
    payload_chars: int = Field(
        65_536,
        ge=1_024,
        le=250_000,
        description="a longer payload is rejected as TOO_LARGE and truncated in the rejected topic",
    )
    max_clock_skew_ms: int = Field(
        10 * MINUTE_MS,
        ge=0,
        description="an event_time later than the record's timestamp plus this is rejected as"
        " FUTURE_TIME",
    )
    # A batch of `job.bundle_rows` windows must fit into 2 GiB, and a stored window into 16 MiB.
    window_events: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="that a window of a user takes; more are rejected as TOO_MANY",
    )
    window_chars: int = Field(
        2_000_000,
        ge=1_024,
        le=16_000_000,
        description="of payloads that a window of a user takes. `job.bundle_rows` windows must fit"
        " into 2 GiB",
    )


class WindowSettings(Section):
    length_ms: int = Field(5 * MINUTE_MS, ge=1_000, le=99 * DAY_MS, description="of a window")
    out_of_orderness_ms: int = Field(
        30_000,
        ge=1,
        le=99 * DAY_MS,
        description="the watermark trails the largest event_time by this",
    )
    idle_timeout_ms: int = Field(
        0,
        ge=0,
        description="the watermark ignores partitions without records for this long; 0: never",
    )
    max_partition_drift_ms: int = Field(
        0,
        ge=0,
        description="the profile pipeline pauses partitions whose clock is this far ahead of the"
        " slowest; 0: never. Only with heartbeats (docs/operate.md#uneven-and-quiet-partitions)",
    )
    stagger_ms: int = Field(
        0,
        ge=0,
        description="spread the window ends of users by this step; 0: all end at once"
        " (docs/operate.md#lower-alert-latency)",
    )
    correction_days: float = Field(
        3.0,
        ge=0,
        le=365,
        description="`liveprofile events recompute-late` uses events up to this late; 0: none."
        " Less than `topics.retention_ms` (docs/operate.md#late-events)",
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> WindowSettings:
        if not self.stagger_ms:
            return self
        if self.stagger_ms % 1_000:
            raise ValueError("stagger_ms must be whole seconds")
        if self.length_ms % self.stagger_ms:
            raise ValueError("length_ms must be a multiple of stagger_ms")
        if self.steps > MOST_STEPS:
            raise ValueError(f"stagger_ms must be at least {self.length_ms // MOST_STEPS} here")
        return self

    @property
    def count_ttl_ms(self) -> int:
        """How long the job keeps the count of a window's events after the last of them arrived."""
        return self.length_ms + self.out_of_orderness_ms + HOUR_MS

    @property
    def steps(self) -> int:
        """The number of different window ends within one window length."""
        return self.length_ms // self.stagger_ms if self.stagger_ms else 1


class StateSettings(Section):
    decay_days: float = Field(30.0, gt=0, description="time constant of the decayed baselines")
    dedup_ttl_ms: int = Field(
        DAY_MS, ge=MINUTE_MS, description="an event_id is a duplicate for so long"
    )
    user_ttl_ms: int = Field(
        90 * DAY_MS, ge=MINUTE_MS, description="of the state of an inactive user"
    )


class ModelSettings(Section):
    checkpoint: Path = Field(
        Path("models/checkpoints/default"),
        description="folder of the user model; an absolute path on a cluster",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    threads: int = Field(1, ge=1, le=64, description="CPU threads of one worker")
    batch_rows: int = Field(
        512,
        ge=1,
        le=65_536,
        description="rows of one forward pass; fewer while the device's memory is short"
        " (docs/model.md#in-the-job)",
    )
    length_buckets: tuple[int, ...] = Field(
        (6, 8, 10, 12, 16, 20, 24, 32), description="lengths to which rows are padded"
    )
    texts: bool = Field(
        False,
        description="encode texts for a model trained with `--texts`; costs milliseconds of CPU"
        " for a window with a text",
    )

    @field_validator("length_buckets")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 2:
            raise ValueError("must be ascending lengths of at least 2")
        return value


class JobSettings(Section):
    name: str = Field(
        "liveprofile", description="of the Flink job; `liveprofile job status` looks it up"
    )
    # CloudEvents requires `source` and `id` together to be unique. The ids of two shops that share
    # a topic may be equal.
    event_source: str = Field(
        "liveprofile",
        pattern=r"^[A-Za-z0-9._~:/%+-]*[A-Za-z0-9._~:%+-]$",
        max_length=256,
        description="first part of `source` in CloudEvents, a URI reference. Deployments that"
        " share topics need different ones",
    )
    # Off: consumers compare types.
    event_type_prefix: str = Field(
        "",
        pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)*)?$",
        max_length=200,
        description="in front of `type` in CloudEvents, a reversed DNS name, such as"
        " com.example.shop",
    )
    parallelism: int = Field(2, ge=1, le=4096, description="of the job")
    checkpoint_interval_ms: int = Field(10_000, ge=100, description="between two checkpoints")
    checkpoint_dir: str = Field(
        "", description="by default the cluster's `execution.checkpointing.dir`"
    )
    changelog: bool = Field(
        False,
        description="use Flink's changelog state backend: checkpoints delay scoring less"
        " (docs/operate.md#lower-alert-latency)",
    )
    bundle_rows: int = Field(
        1_000, ge=1, description="maximum rows of a batch for a Python operator"
    )
    buffer_timeout_ms: int = Field(
        5,
        ge=0,
        description="maximum wait of a record in a network buffer, at each exchange; a longer wait"
        " delays alerts and saves CPU",
    )
    store: Literal["cassandra", "none"] = Field(
        "cassandra",
        description="none: score and raise flags, store nothing; every true rule then raises a"
        " flag",
    )


class ScoringSettings(Section):
    """The scoring pipeline: fraud scores and rules for single events."""

    enabled: bool = Field(True, description="score single events as they arrive (docs/risk.md)")
    # The state contains K tokens of about 80 characters for each user and entity, twice.
    history: int = Field(
        128, ge=2, le=1_024, description="last events of a user or an entity that features use"
    )
    checkpoint: Path = Field(
        Path("models/checkpoints/event-risk"),
        description="folder of the fraud model; an absolute path on a cluster",
    )
    max_delay_ms: int = Field(
        10 * MINUTE_MS,
        ge=0,
        description="an event that arrives later than this is scored as if it were this old, so"
        " that nobody hides a series of events by dating them apart",
    )
    replay: bool = Field(
        False,
        description="the topic holds history: event_time counts, however late an event arrives."
        " The local stack sets it",
    )
    fetch_wait_ms: int = Field(
        10,
        ge=1,
        le=10_000,
        description="how long a broker may wait for more events of a fetch. A longer wait delays"
        " scores, a shorter one costs CPU in an idle job",
    )
    score_ttl_s: int = Field(
        30 * 86_400, ge=1, le=MAX_TTL_S, description="of `risk_score_by_hour` and `risk_histogram`"
    )
    rejoin_ttl_ms: int = Field(
        2 * MINUTE_MS,
        ge=MINUTE_MS,
        description="an event whose parts do not all arrive within this time is not scored",
    )


class DecoderSettings(Section):
    """`liveprofile events decode`: the registry whose schemas records in Confluent wire format
    name.
    """

    registry_url: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="schema registry of `liveprofile events decode`"
        " (docs/data-contract.md#other-formats); empty: none",
    )
    registry_username: str = Field("", description="for basic authentication")
    registry_password: SecretStr = Field(SecretStr(""), description="for basic authentication")
    registry_ca_file: str = Field(
        "", description="PEM file of trusted certificates; empty: the system's"
    )

    @model_validator(mode="after")
    def _complete_credentials(self) -> DecoderSettings:
        if bool(self.registry_username) != bool(self.registry_password.get_secret_value()):
            raise ValueError("registry_username and registry_password need each other")
        return self


class FlinkSettings(Section):
    rest_url: str = Field("http://localhost:8081", description="REST API of Flink's JobManager")
