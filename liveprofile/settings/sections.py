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
        4, ge=1, le=1000, description="of a created topic, except definitions and models: one"
    )
    replication: int = Field(1, ge=1, le=10, description="of created topics; 3 in production")
    retention_ms: int = Field(7 * DAY_MS, ge=-1, description="of events and alerts; -1: unlimited")
    labels_retention_ms: int = Field(
        400 * DAY_MS,
        ge=-1,
        description="of labels, which later trainings read, and of attributes, from which a lost"
        " table is rebuilt",
    )
    decisions_retention_ms: int = Field(
        3_650 * DAY_MS,
        ge=-1,
        description="of consents, erasures and merges: how long a withdrawal counts, a replay does"
        " not bring erased users back, and an id stays an alias",
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
    bootstrap_servers: str = "localhost:9092"
    group_id: str = "liveprofile"
    startup_mode: Literal["earliest", "latest", "group"] = Field(
        "earliest", description="where a job without a savepoint starts reading"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = (
        "SCRAM-SHA-512"
    )
    username: str = ""
    password: SecretStr = SecretStr("")
    oauth_token_url: str = Field(
        "", pattern="^(https?://.+)?$", description="issues tokens for OAUTHBEARER"
    )
    oauth_client_id: str = ""
    oauth_client_secret: SecretStr = SecretStr("")
    oauth_scope: str = ""
    ca_file: str = Field("", description="PEM file with trusted certificates")
    certificate_file: str = Field("", description="PEM file with the client's certificate chain")
    key_file: str = Field("", description="PEM file with the client's private key")
    key_password: SecretStr = SecretStr("")
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
    contact_points: tuple[str, ...] = ("127.0.0.1",)
    port: int = Field(9042, ge=1, le=65535)
    local_dc: str = "datacenter1"
    keyspace: str = Field("liveprofile", pattern=r"^[a-z][a-z0-9_]{0,47}$")
    replication: int = Field(1, ge=1, le=10)
    username: str = ""
    password: SecretStr = SecretStr("")
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: SecretStr = SecretStr("")
    consistency: Literal["ONE", "LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = "LOCAL_QUORUM"
    batch_bytes: int = Field(
        40_000,
        ge=256,
        le=40_000,
        description="size of an unlogged batch; the server's limit applies too",
    )
    in_flight: int = Field(32, ge=1, le=1024, description="concurrent requests of a worker")
    request_timeout_ms: int = Field(5_000, ge=100)
    retry_timeout_ms: int = Field(
        60_000, ge=0, description="retry a failing write for this long, then fail the checkpoint"
    )
    profile_ttl_s: int = Field(180 * 86_400, ge=1, le=MAX_TTL_S)
    delta_ttl_s: int = Field(30 * 86_400, ge=1, le=MAX_TTL_S)
    flag_ttl_s: int = Field(365 * 86_400, ge=1, le=MAX_TTL_S)
    case_ttl_s: int = Field(
        730 * 86_400,
        ge=1,
        le=MAX_TTL_S,
        description="of a case after its last change; longer than flags, because payment disputes"
        " about them take months",
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
    payload_chars: int = Field(65_536, ge=1_024, le=250_000)
    max_clock_skew_ms: int = Field(10 * MINUTE_MS, ge=0)
    # A batch of `job.bundle_rows` windows must fit into 2 GiB, and a stored window into 16 MiB.
    window_events: int = Field(
        10_000, ge=1, le=100_000, description="that one window of a user takes"
    )
    window_chars: int = Field(
        2_000_000, ge=1_024, le=16_000_000, description="of payloads that one window takes"
    )


class WindowSettings(Section):
    length_ms: int = Field(5 * MINUTE_MS, ge=1_000, le=99 * DAY_MS)
    out_of_orderness_ms: int = Field(30_000, ge=1, le=99 * DAY_MS)
    idle_timeout_ms: int = Field(
        0,
        ge=0,
        description="the watermark ignores partitions without records for this long; 0: never",
    )
    max_partition_drift_ms: int = Field(
        0,
        ge=0,
        description="pause partitions whose clock is this far ahead of the slowest; 0: never",
    )
    stagger_ms: int = Field(
        0, ge=0, description="spread the window ends of users by this step; 0: all end at once"
    )
    correction_days: float = Field(
        3.0,
        ge=0,
        le=365,
        description="`liveprofile events recompute-late` uses later events up to this",
    )
    # The state contains K (K + 3) / 2 windows of tokens for each user
    # (jobs.sql.profile_views.model_input).
    history: int = Field(8, ge=1, le=32, description="earlier windows that the model reads")

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
    decay_days: float = Field(30.0, gt=0)
    dedup_ttl_ms: int = Field(DAY_MS, ge=MINUTE_MS)
    user_ttl_ms: int = Field(90 * DAY_MS, ge=MINUTE_MS)


class ModelSettings(Section):
    checkpoint: Path = Path("models/checkpoints/default")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, le=64, description="CPU threads of one worker")
    batch_rows: int = Field(512, ge=1, le=65_536)
    length_buckets: tuple[int, ...] = (6, 8, 10, 12, 16, 20, 24, 32)
    texts: bool = Field(False, description="pass texts to a model that was trained with texts")

    @field_validator("length_buckets")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 2:
            raise ValueError("must be ascending lengths of at least 2")
        return value


class JobSettings(Section):
    name: str = "liveprofile"
    # CloudEvents requires `source` and `id` together to be unique. The ids of two shops that share
    # a topic may be equal.
    event_source: str = Field(
        "liveprofile",
        pattern=r"^[A-Za-z0-9._~:/%+-]*[A-Za-z0-9._~:%+-]$",
        max_length=256,
        description="a URI reference that does not end with a slash",
    )
    # Off: consumers compare types.
    event_type_prefix: str = Field(
        "",
        pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)*)?$",
        max_length=200,
        description="a reversed DNS name, such as com.example.shop; empty: none",
    )
    parallelism: int = Field(2, ge=1, le=4096)
    checkpoint_interval_ms: int = Field(10_000, ge=100)
    checkpoint_dir: str = ""
    changelog: bool = Field(
        False, description="use Flink's changelog state backend: checkpoints delay scoring less"
    )
    bundle_rows: int = Field(1_000, ge=1)
    buffer_timeout_ms: int = Field(5, ge=0)
    store: Literal["cassandra", "none"] = Field(
        "cassandra", description="none: score and raise flags, store nothing"
    )


class ScoringSettings(Section):
    """The scoring pipeline: fraud scores and rules for single events."""

    enabled: bool = Field(True, description="score single events as they arrive")
    # The state contains K tokens of about 80 characters for each user and entity, twice.
    history: int = Field(
        128, ge=2, le=1_024, description="last events of a user or an entity that features use"
    )
    checkpoint: Path = Path("models/checkpoints/event-risk")
    max_delay_ms: int = Field(
        10 * MINUTE_MS,
        ge=0,
        description="an event that arrives later than this is scored as if it were this old",
    )
    replay: bool = Field(
        False, description="the topic holds history: event_time counts, however late it arrives"
    )
    fetch_wait_ms: int = Field(
        10, ge=1, le=10_000, description="how long a broker may wait for more events of a fetch"
    )
    score_ttl_s: int = Field(30 * 86_400, ge=1, le=MAX_TTL_S)
    rejoin_ttl_ms: int = Field(
        2 * MINUTE_MS,
        ge=MINUTE_MS,
        description="the parts of an event must arrive within this time",
    )


class DecoderSettings(Section):
    """`liveprofile events decode`: the registry whose schemas records in Confluent wire format
    name.
    """

    registry_url: str = Field(
        "", pattern="^(https?://.+)?$", description="of a schema registry; empty: none"
    )
    registry_username: str = ""
    registry_password: SecretStr = SecretStr("")
    registry_ca_file: str = Field("", description="PEM file of trusted certificates")

    @model_validator(mode="after")
    def _complete_credentials(self) -> DecoderSettings:
        if bool(self.registry_username) != bool(self.registry_password.get_secret_value()):
            raise ValueError("registry_username and registry_password need each other")
        return self


class FlinkSettings(Section):
    rest_url: str = "http://localhost:8081"
