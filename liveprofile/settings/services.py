"""Settings of the services that Liveprofile connects to, and of its own servers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from liveprofile.loopback import is_loopback
from liveprofile.units import DAY_MS

# Cassandra's limit, 20 years. Every row has a TTL: it bounds the tables, and it decides between two
# writes with equal times (udfs.cassandra.encoding.write_time_us).
MAX_TTL_S = 20 * 365 * 86_400
DAY_S = 86_400

Ttl = Annotated[int, Field(ge=1, le=MAX_TTL_S)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def within(low: float, high: float | None = None) -> Any:
    """The bounds of a setting."""
    return Field(ge=low, le=high)


class Login(Section):
    """How a client proves who it is with a password, and whom it trusts."""

    username: str = ""
    """no authentication with a password without one"""
    password: SecretStr = SecretStr("")
    """of the user"""
    ca_file: str = ""
    """PEM file of trusted certificates; empty: the system's"""


class Certificate(Section):
    """How a client or a server proves who it is with TLS."""

    certificate_file: str = ""
    """PEM file with the certificate chain"""
    key_file: str = ""
    """PEM file with the private key"""
    key_password: SecretStr = SecretStr("")
    """of an encrypted `key_file`"""

    @model_validator(mode="after")
    def _complete_certificate(self) -> Certificate:
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file need each other")
        if self.key_password.get_secret_value() and not self.key_file:
            raise ValueError("key_password needs key_file")
        return self


class Topic(property):
    """A topic, as an attribute of TopicSettings: its name.

    holds: what its records say. limit: the key of the settings that limits the age of a record; "":
    none does, and it holds nothing about users. compacted: a newer record of a key replaces the
    older ones. own_of_bootstrap: a job over an archive has one of its own.
    """

    def __init__(
        self,
        name: str,
        holds: str,
        limit: str = "retention_ms",
        compacted: bool = False,
        own_of_bootstrap: bool = False,
    ):
        self.holds, self.limit, self.compacted = holds, limit, compacted

        def full_name(topics: TopicSettings) -> str:
            end = "-bootstrap" if own_of_bootstrap and topics.bootstrap else ""
            return f"{topics.prefix}{name}{end}"

        super().__init__(full_name)

    def policy(self) -> str:
        """Kafka's cleanup.policy."""
        kinds = {"compact": self.compacted, "delete": bool(self.limit)}
        return ",".join(kind for kind, holds in kinds.items() if holds)


class TopicSettings(Section):
    """Names of topics, and how `liveprofile job setup` creates them."""

    prefix: Annotated[str, Field(pattern=r"^[\w.-]{0,100}$")] = ""
    """before the name of every topic, so that several jobs can share a cluster"""
    partitions: Annotated[int, within(1, 1000)] = 4
    """of created topics; definitions and models have one"""
    replication: Annotated[int, within(1, 10)] = 1
    """of created topics; 3 in production (docs/deploy.md#requirements)"""
    retention_ms: Annotated[int, within(-1)] = 7 * DAY_MS
    """of created topics, except those below and compacted ones; -1: unlimited"""
    labels_retention_ms: Annotated[int, within(-1)] = 400 * DAY_MS
    """of labels and attributes"""
    decisions_retention_ms: Annotated[int, within(-1)] = 3_650 * DAY_MS
    """of consents, erasures and merges: how long a withdrawal counts, a replay does not bring
    erased users back, and an id stays an alias; -1: unlimited"""
    bootstrap: bool = False
    """set by `liveprofile events bootstrap`: events, alerts and segment changes of the past have
    topics of their own"""

    events = Topic("behavior-events", "events as they were sent", own_of_bootstrap=True)
    encoded = Topic("behavior-events-encoded", "events in other formats")
    rejected = Topic("behavior-events-rejected", "rejected events")
    late = Topic("behavior-events-late", "late events")
    alerts = Topic("risk-alerts", "risk alerts", own_of_bootstrap=True)
    segment_changes = Topic("segment-changes", "changes of segments", own_of_bootstrap=True)
    consents = Topic("user-consents", "consents by purpose", "decisions_retention_ms", True)
    erasures = Topic("user-erasures", "since when users are erased", "decisions_retention_ms", True)
    merges = Topic("user-merges", "ids that are one person", "decisions_retention_ms", True)
    feedback = Topic("risk-feedback", "labels by analysts", "labels_retention_ms")
    attributes = Topic(
        "user-attributes", "what other systems state about the user", "labels_retention_ms", True
    )
    rules = Topic("risk-rules", "definitions of rules", "", True)
    models = Topic("user-models", "the model in force", "", True)
    segments = Topic("segment-definitions", "definitions of segments", "", True)


TOPICS = {name: each for name, each in vars(TopicSettings).items() if isinstance(each, Topic)}


class KafkaSettings(Login, Certificate):
    bootstrap_servers: str = "localhost:9092"
    """brokers, separated by commas"""
    group_id: str = "liveprofile"
    """consumer group of the job, whose offsets each checkpoint commits; scoring uses
    `<group_id>-events`. Two jobs need two groups"""
    startup_mode: Literal["earliest", "latest", "group"] = "earliest"
    """where a job without a savepoint starts reading; group: at committed offsets"""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """with SSL: TLS"""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """with SASL"""
    request_timeout_ms: Annotated[int, within(100)] = 15_000
    """of requests that commands send to brokers"""

    @model_validator(mode="after")
    def _complete_credentials(self) -> KafkaSettings:
        if self.certificate_file and not self.uses_tls:
            raise ValueError("certificate_file needs security_protocol SSL or SASL_SSL")
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


class CassandraSettings(Login, Certificate):
    contact_points: tuple[str, ...] = ("127.0.0.1",)
    """addresses of some nodes, a list"""
    port: Port = 9042
    """of the nodes"""
    local_dc: str = "datacenter1"
    """data centre to read from and write to"""
    keyspace: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = "liveprofile"
    """of all tables"""
    replication: Annotated[int, within(1, 10)] = 1
    """of a keyspace that the job creates; 3 in production (docs/deploy.md#requirements)"""
    ca_file: str = ""
    """PEM file of trusted certificates; empty: no TLS"""
    consistency: Literal["ONE", "LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = "LOCAL_QUORUM"
    """of reads and writes"""
    request_timeout_ms: Annotated[int, within(100)] = 5_000
    """of one request"""
    retry_timeout_ms: Annotated[int, within(0)] = 60_000
    """retry a failing write for this long, then fail the task"""
    profile_ttl_s: Ttl = 180 * DAY_S
    """of profiles, look-alikes and segment changes"""
    delta_ttl_s: Ttl = 30 * DAY_S
    """of `profile_delta`"""
    flag_ttl_s: Ttl = 365 * DAY_S
    """of flags and their states, `drift_state`, and sizes of segments"""
    case_ttl_s: Ttl = 730 * DAY_S
    """of a case after its last change"""
    history_ttl_s: Ttl = 400 * DAY_S
    """of trends, contacts and plans of campaigns, and the audit trail"""

    @model_validator(mode="after")
    def _certificate_with_tls(self) -> CassandraSettings:
        if self.certificate_file and not self.ca_file:
            raise ValueError("certificate_file needs ca_file, which enables TLS")
        return self


class DecoderSettings(Login):
    """The schema registry of `liveprofile events decode`, which records in Confluent wire format
    name.
    """

    registry_url: Annotated[str, Field(pattern="^(https?://.+)?$")] = ""
    """schema registry of `liveprofile events decode` (docs/data-contract.md#other-formats); empty:
    none"""

    @model_validator(mode="after")
    def _complete_credentials(self) -> DecoderSettings:
        if bool(self.username) != bool(self.password.get_secret_value()):
            raise ValueError("username and password need each other")
        return self


class FlinkSettings(Section):
    rest_url: str = "http://localhost:8081"
    """REST API of Flink's JobManager"""
    scoring_rest_url: str = ""
    """of the cluster of the scoring job, with `job.pipelines = "apart"`; empty: `rest_url`"""


class ServeSettings(Certificate):
    """The read API and the console. Anything but this machine needs TLS and keys."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """address that servers listen on; any other than loopback needs keys and TLS"""
    allow_plaintext: bool = False
    """listen beyond this machine without TLS, which a proxy must add"""
    port: Annotated[int, within(0, 65_535)] = 8070
    """of the read API (docs/api.md); 0: any free port"""
    authentication: Literal["keys", "none"] = "keys"
    """none: everybody on this machine may read, nobody may write"""
    deadline_ms: Annotated[int, within(100, 60_000)] = 1_200
    """a request that takes longer is answered with 503"""
    max_requests_per_s: Annotated[float, Field(gt=0)] = 500.0
    """of one key, in the long run; twice as many at once"""
    max_listed_users_per_day: Annotated[int, within(0)] = 1_000_000
    """users that one key may read in batches, members of segments and targets of campaigns on a UTC
    day, over all servers; more are answered with 429. 0: no limit"""
    max_in_flight: Annotated[int, within(1)] = 512
    """reads at once, and writes at once; more are answered with 503"""
    max_scan_rows: Annotated[int, within(1)] = 500_000
    """rows that one preview or campaign may read through the API"""
    console_port: Annotated[int, within(0, 65_535)] = 8072
    """of the console (docs/console.md); 0: any free port"""
    console_idle_s: Annotated[int, within(60, 12 * 3_600)] = 3_600
    """a session of the console that nobody uses for so long ends; each ends after 12 hours"""
    second_approver: bool = True
    """rules edited in the console need the approval of another person. The local stack turns it off
    """
    api_key_ttl_s: Ttl = 365 * DAY_S
    """a key expires after this, unless `serve key create --days` says otherwise"""

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if is_loopback(self.host):
            return self
        if self.authentication == "none":
            raise ValueError(f'host {self.host} is not loopback: it needs authentication = "keys"')
        if not self.certificate_file and not self.allow_plaintext:
            raise ValueError(
                f"host {self.host} is not loopback: it needs certificate_file and key_file, or"
                " allow_plaintext = true behind a proxy with TLS"
            )
        return self

    @property
    def uses_tls(self) -> bool:
        return bool(self.certificate_file)

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1_000


Interval = Annotated[float, within(0, 7 * DAY_S)]


class ChoreSettings(Section):
    """Seconds between two runs of each chore of `liveprofile serve chores`; 0: it does not run it
    (docs/operate.md#chores).
    """

    heartbeat_s: Interval = 1.0
    """the present time to each partition; 0 where history is replayed"""
    erasures_s: Interval = 20.0
    """`privacy erase --pending`"""
    attributes_s: Interval = 300.0
    """`attributes apply`"""
    trends_s: Interval = 3_600.0
    """`shop trends update`"""
    late_s: Interval = 3_600.0
    """`events recompute-late`"""
    audit_s: Interval = 3_600.0
    """`events audit --new`"""
    consents_s: Interval = 86_400.0
    """`privacy consent backwards --delete`"""
    sweep_s: Interval = 86_400.0
    """`segments sweep`; 0 where history is replayed"""


class MetricsSettings(Section):
    """The exporter of metrics; it listens with address and certificate of `serve`."""

    port: Annotated[int, within(0, 65_535)] = 8071
    """of the exporter, which listens with the address and certificate of `serve`
    (docs/operate.md#monitor); 0: any free port"""
    token_file: str = ""
    """file with the token that Prometheus sends, 16 characters or more; empty: none, on loopback
    only"""
