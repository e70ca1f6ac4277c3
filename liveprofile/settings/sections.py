"""Settings of both pipelines, and of what may be done with a person's data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from pydantic import field_validator, model_validator

from liveprofile.settings.services import DAY_S, Section, Ttl, setting
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

MOST_STEPS = 300
Purpose = Literal["profiling", "recommendation", "marketing", "risk", "training"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class LimitSettings(Section):
    # A character has up to four bytes, and a request to Kafka at most a mebibyte.
    max_payload_chars: int = setting(
        65_536,
        "a longer payload is rejected as TOO_LARGE and truncated in the rejected topic",
        1_024,
        250_000,
    )
    max_clock_skew_ms: int = setting(
        10 * MINUTE_MS,
        "an event_time later than the record's timestamp plus this is rejected as FUTURE_TIME",
        0,
    )
    # A batch of `job.max_bundle_rows` windows must fit into 2 GiB, and a stored window into 16 MiB.
    max_window_events: int = setting(
        10_000, "that a window of a user takes; more are rejected as TOO_MANY", 1, 100_000
    )
    max_window_chars: int = setting(
        2_000_000,
        "of payloads that a window of a user takes. `job.max_bundle_rows` windows must fit into"
        " 2 GiB",
        1_024,
        16_000_000,
    )


class WindowSettings(Section):
    length_ms: int = setting(5 * MINUTE_MS, "of a window", 1_000, 99 * DAY_MS)
    out_of_orderness_ms: int = setting(
        30_000, "the watermark trails the largest event_time by this", 1, 99 * DAY_MS
    )
    max_partition_drift_ms: int = setting(
        0,
        "the profile pipeline pauses partitions whose clock is this far ahead of the slowest; 0:"
        " never. Only with heartbeats (docs/operate.md#uneven-and-quiet-partitions)",
        0,
    )
    stagger_ms: int = setting(
        0,
        "spread the window ends of users by this step; 0: all end at once"
        " (docs/operate.md#lower-alert-latency)",
        0,
    )
    correction_days: float = setting(
        3.0,
        "`liveprofile events recompute-late` uses events up to this late; 0: none. Less than"
        " `topics.retention_ms` (docs/operate.md#late-events)",
        0,
        365,
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> WindowSettings:
        if self.stagger_ms % 1_000:
            raise ValueError("stagger_ms must be whole seconds")
        if self.stagger_ms and self.length_ms % self.stagger_ms:
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
    decay_days: float = setting(30.0, "time constant of the decayed baselines", gt=0)
    dedup_ttl_ms: int = setting(DAY_MS, "an event_id is a duplicate for so long", MINUTE_MS)
    user_ttl_ms: int = setting(90 * DAY_MS, "of the state of an inactive user", MINUTE_MS)


class ModelSettings(Section):
    checkpoint: Path = setting(
        Path("models/checkpoints/default"),
        "folder of the user model; an absolute path on a cluster",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    threads: int = setting(1, "CPU threads of one worker", 1, 64)
    batch_rows: int = setting(
        512,
        "rows of one forward pass; fewer while the device's memory is short"
        " (docs/model.md#in-the-job)",
        1,
        65_536,
    )
    texts: bool = setting(
        False,
        "encode texts for a model trained with `--texts`; costs milliseconds of CPU for a window"
        " with a text",
    )


class JobSettings(Section):
    name: str = setting("liveprofile", "of the Flink job; `liveprofile job status` looks it up")
    # CloudEvents requires `source` and `id` together to be unique. The ids of two shops that share
    # a topic may be equal.
    event_source: str = setting(
        "liveprofile",
        "first part of `source` in CloudEvents, a URI reference. Deployments that share topics need"
        " different ones",
        pattern=r"^[A-Za-z0-9._~:/%+-]*[A-Za-z0-9._~:%+-]$",
        max_length=256,
    )
    # Off: consumers compare types.
    event_type_prefix: str = setting(
        "",
        "in front of `type` in CloudEvents, a reversed DNS name, such as com.example.shop",
        pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)*)?$",
        max_length=200,
    )
    parallelism: int = setting(2, "of the job", 1, 4096)
    checkpoint_interval_ms: int = setting(10_000, "between two checkpoints", 100)
    checkpoint_dir: str = setting("", "by default the cluster's `execution.checkpointing.dir`")
    changelog: bool = setting(
        False,
        "use Flink's changelog state backend: checkpoints delay scoring less"
        " (docs/operate.md#lower-alert-latency)",
    )
    max_bundle_rows: int = setting(1_000, "maximum rows of a batch for a Python operator", 1)
    buffer_timeout_ms: int = setting(
        5,
        "maximum wait of a record in a network buffer, at each exchange; a longer wait delays"
        " alerts and saves CPU",
        0,
    )
    store: Literal["cassandra", "none"] = setting(
        "cassandra",
        "none: score and raise flags, store nothing; every true rule then raises a flag",
    )


class ScoringSettings(Section):
    """The scoring pipeline: fraud scores and rules for single events."""

    enabled: bool = setting(True, "score single events as they arrive (docs/risk.md)")
    # The state contains K tokens of about 80 characters for each user and entity, twice.
    history: int = setting(128, "last events of a user or an entity that features use", 2, 1_024)
    checkpoint: Path = setting(
        Path("models/checkpoints/event-risk"),
        "folder of the fraud model; an absolute path on a cluster",
    )
    max_delay_ms: int = setting(
        10 * MINUTE_MS,
        "an event that arrives later than this is scored as if it were this old, so that nobody"
        " hides a series of events by dating them apart",
        0,
    )
    replay: bool = setting(
        False,
        "the topic holds history: event_time counts, however late an event arrives. The local stack"
        " sets it",
    )
    score_ttl_s: Ttl = setting(30 * DAY_S, "of `risk_score_by_hour` and `risk_histogram`")
    fetch_wait_ms: int = setting(
        10,
        "how long a broker may wait for more events of a fetch. A longer wait delays scores, a"
        " shorter one costs CPU in an idle job",
        1,
        10_000,
    )
    rejoin_ttl_ms: int = setting(
        2 * MINUTE_MS,
        "an event whose parts do not all arrive within this time is not scored",
        MINUTE_MS,
    )


class ConsentSettings(Section):
    """What is allowed of a user who has neither granted nor withdrawn it."""

    granted: tuple[Purpose, ...] = setting(
        PURPOSES, "purposes that a user allows who has said nothing (docs/privacy.md#consent)"
    )

    @property
    def defaults(self) -> dict[str, bool]:
        """By purpose."""
        return {purpose: purpose in self.granted for purpose in PURPOSES}


class MergeSettings(Section):
    """Ids that are one person (`liveprofile identity merge`)."""

    enabled: bool = setting(
        False,
        "whether several ids can be one person (docs/privacy.md#one-person-several-ids); costs a"
        " Python step for each event",
    )
    delay_ms: int = setting(
        MINUTE_MS, "a merge counts from so long after the command, when every worker knows it", 0
    )


class LoginSettings(Section):
    """`liveprofile identity link-logins`: anonymous ids that log in to an account."""

    anonymous_id_pattern: str = setting(
        "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "a regular expression that all of an anonymous id matches, and no account's id"
        " (docs/privacy.md#logins). Keep it simple: clients choose the text",
    )

    @field_validator("anonymous_id_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value
