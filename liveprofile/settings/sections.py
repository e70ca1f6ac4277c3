"""Settings of both pipelines, and of what may be done with a person's data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from liveprofile.settings.services import DAY_S, Section, Ttl, within
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

MOST_STEPS = 300
Purpose = Literal["profiling", "recommendation", "marketing", "risk", "training"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class LimitSettings(Section):
    # A character has up to four bytes, and a request to Kafka at most a mebibyte.
    max_payload_chars: Annotated[int, within(1_024, 250_000)] = 65_536
    """a longer payload is rejected as TOO_LARGE and truncated in the rejected topic"""
    max_clock_skew_ms: Annotated[int, within(0)] = 10 * MINUTE_MS
    """an event_time later than the record's timestamp plus this is rejected as FUTURE_TIME; a
    consent or erasure with such a time is ignored"""
    # A batch of `job.max_bundle_rows` windows must fit into 2 GiB, and a stored window into 16 MiB.
    max_window_events: Annotated[int, within(1, 100_000)] = 10_000
    """that a window of a user takes; more are rejected as TOO_MANY"""
    max_window_chars: Annotated[int, within(1_024, 16_000_000)] = 2_000_000
    """of payloads that a window of a user takes. `job.max_bundle_rows` windows must fit into 2 GiB
    """


class WindowSettings(Section):
    length_ms: Annotated[int, within(1_000, 99 * DAY_MS)] = 5 * MINUTE_MS
    """of a window"""
    out_of_orderness_ms: Annotated[int, within(1, 99 * DAY_MS)] = 30_000
    """the watermark trails the largest event_time by this"""
    max_partition_drift_ms: Annotated[int, within(0)] = 0
    """the profile pipeline pauses partitions whose clock is this far ahead of the slowest; 0:
    never. Only with heartbeats (docs/operate.md#uneven-and-quiet-partitions)"""
    stagger_ms: Annotated[int, within(0)] = 0
    """spread the window ends of users by this step; 0: all end at once
    (docs/operate.md#lower-alert-latency)"""
    correction_days: Annotated[float, within(0, 365)] = 3.0
    """`liveprofile events recompute-late` uses events up to this late; 0: none. Less than
    `topics.retention_ms` (docs/operate.md#late-events)"""

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
    decay_days: Annotated[float, Field(gt=0)] = 30.0
    """time constant of the decayed baselines"""
    dedup_ttl_ms: Annotated[int, within(MINUTE_MS)] = DAY_MS
    """an event_id is a duplicate for so long"""
    user_ttl_ms: Annotated[int, within(MINUTE_MS)] = 90 * DAY_MS
    """of the state of an inactive user"""


class ModelSettings(Section):
    checkpoint: Path = Path("models/checkpoints/default")
    """folder of the user model; an absolute path on a cluster"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one"""
    threads: Annotated[int, within(1, 64)] = 1
    """CPU threads of one worker"""
    batch_rows: Annotated[int, within(1, 65_536)] = 512
    """rows of one forward pass; fewer while the device's memory is short (docs/model.md#in-the-job)
    """
    texts: bool = False
    """encode texts for a model trained with `--texts`; costs milliseconds of CPU for a window with
    a text"""


class JobSettings(Section):
    name: str = "liveprofile"
    """of the Flink job; `liveprofile job status` looks it up"""
    pipelines: Literal["together", "apart"] = "together"
    """together: in one job; apart: in jobs NAME-profile and NAME-scoring, so that windows delay
    alerts less (docs/operate.md#pipelines-apart)"""
    # CloudEvents requires `source` and `id` together to be unique. The ids of two shops that share
    # a topic may be equal.
    event_source: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._~:/%+-]*[A-Za-z0-9._~:%+-]$", max_length=256)
    ] = "liveprofile"
    """first part of `source` in CloudEvents, a URI reference. Deployments that share topics need
    different ones"""
    parallelism: Annotated[int, within(1, 4096)] = 2
    """of the job"""
    checkpoint_interval_ms: Annotated[int, within(100)] = 10_000
    """between two checkpoints"""
    checkpoint_dir: str = ""
    """by default the cluster's `execution.checkpointing.dir`"""
    changelog: bool = False
    """use Flink's changelog state backend: checkpoints delay scoring less
    (docs/operate.md#lower-alert-latency)"""
    max_bundle_rows: Annotated[int, within(1)] = 1_000
    """maximum rows of a batch for a Python operator"""
    buffer_timeout_ms: Annotated[int, within(0)] = 5
    """maximum wait of a record in a network buffer, at each exchange; a longer wait delays alerts
    and saves CPU"""


class ScoringSettings(Section):
    """The scoring pipeline: fraud scores and rules for single events."""

    enabled: bool = True
    """score single events as they arrive (docs/risk.md)"""
    parallelism: Annotated[int, within(1, 4096)] = 1
    """of the scoring job, with `job.pipelines = "apart"`"""
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    """of the scoring job, with `job.pipelines = "apart"`. hashmap: in the JVM's heap, for small
    shops"""
    # The state has K tokens of about 80 characters for each user, and of about 50 for each entity.
    history: Annotated[int, within(2, 1_024)] = 128
    """last events of a user or an entity that features use"""
    checkpoint: Path = Path("models/checkpoints/event-risk")
    """folder of the fraud model; an absolute path on a cluster"""
    max_delay_ms: Annotated[int, within(0)] = 10 * MINUTE_MS
    """an event that arrives later than this is scored as if it were this old, so that nobody hides
    a series of events by dating them apart"""
    replay: bool = False
    """the topic holds history: event_time counts, however late an event arrives. The local stack
    sets it"""
    score_ttl_s: Ttl = 30 * DAY_S
    """of `risk_score_by_hour` and `risk_histogram`"""
    fetch_wait_ms: Annotated[int, within(1, 10_000)] = 10
    """how long a broker may wait for more events of a fetch. A longer wait delays scores, a shorter
    one costs CPU in an idle job"""


class ConsentSettings(Section):
    """What is allowed of a user who has neither granted nor withdrawn it."""

    mode: Literal["opt-in", "opt-out"] | None = None
    """opt-in: nothing but `granted`; opt-out: everything. `liveprofile job setup` and `submit`
    demand it"""
    granted: tuple[Purpose, ...] = ()
    """with opt-in: purposes that need no consent (docs/privacy.md#consent)"""

    @model_validator(mode="after")
    def _granted_with_opt_in(self) -> Self:
        if self.granted and self.mode != "opt-in":
            raise ValueError('granted needs mode = "opt-in"')
        return self

    @property
    def defaults(self) -> dict[str, bool]:
        """By purpose."""
        return {purpose: self.mode != "opt-in" or purpose in self.granted for purpose in PURPOSES}


class MergeSettings(Section):
    """Ids that are one person (`liveprofile identity merge`)."""

    enabled: bool = False
    """whether several ids can be one person (docs/privacy.md#one-person-several-ids); costs a
    Python step for each event"""
    delay_ms: Annotated[int, within(0)] = MINUTE_MS
    """a merge counts from so long after the command, when every worker knows it"""


class LoginSettings(Section):
    """`liveprofile identity link-logins`: anonymous ids that log in to an account."""

    anonymous_id_pattern: str = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    """a regular expression that all of an anonymous id matches, and no account's id
    (docs/privacy.md#logins). Keep it simple: clients choose the text"""

    @field_validator("anonymous_id_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value
