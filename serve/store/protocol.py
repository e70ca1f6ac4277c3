"""The store behind the API. `cassandra.py` implements it; tests pass one in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from liveprofile.alerts.cases.case_store import AlertCase
from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.alerts.cases.snooze import Snooze
from liveprofile.alerts.cases.states import AlertState, StateChange, StoredAlertState
from liveprofile.attributes.statements import Statement
from liveprofile.audit.results import AuditResult
from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.plan_store import StoredPlan
from liveprofile.campaigns.planning import Wish
from liveprofile.campaigns.uplift import Uplift
from liveprofile.consent.changes import ConsentChange
from liveprofile.errors import LiveprofileError
from liveprofile.ingest.rejected import RejectedRecord
from liveprofile.labels.rule_backtest import Backtest
from liveprofile.privacy.erasure_status import PlaceStatus
from liveprofile.rules.definitions import Definition
from liveprofile.rules.proposals import Proposal
from liveprofile.rules.rules import Rule
from liveprofile.segments.definitions import Segment
from liveprofile.segments.members import SegmentSize
from liveprofile.segments.preview import SegmentPreview
from liveprofile.storage.queries import SimilarUser, StoredFlag, StoredScore
from liveprofile.trends.counts import Series
from liveprofile.trends.funnel import Cohort
from liveprofile.trends.points import Metric, Point
from liveprofile.trends.stored import StoredForecast, StoredFunnel
from serve.definitions import DefinitionKind
from serve.keys import StoredKey
from udfs.definition_changes import Applied, InForce
from udfs.scoring.drift_store import DriftDecision, DriftState

# No stored time is outside these, which Python's datetime and Cassandra can both represent.
START_OF_TIME_MS, END_OF_TIME_MS = -62_000_000_000_000, 253_402_300_799_999

REJECTED_OFFSETS = 250
LabelName = Literal["fraud", "legitimate"]


class RawProfile(NamedTuple):
    """A row of user_profile; `profile` is JSON that most answers pass on unread."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    feature_version: int
    churn: float
    expected_spend: float
    recency_days: float | None
    purchases_decayed: float
    amount_decayed: float
    events_total: int
    segments: Sequence[str] | None
    profile: str
    embedding: list[float] | None = None


class RawDelta(NamedTuple):
    """A row of profile_delta; `delta` is JSON."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    events: int
    amount: float
    embedding_distance: float
    surprise: float
    active_rules: Sequence[str] | None
    delta: str
    # Of a correction; None: the job's.
    revision: int | None = None
    corrected_at_ms: int | None = None
    correction: str | None = None


class ScorePage(NamedTuple):
    rows: list[StoredScore]
    position: tuple[int, str] | None  # after the page; None: there is no more


class ConsentState(NamedTuple):
    """The changes of a user, newest first, and what is allowed without one."""

    changes: list[ConsentChange]
    defaults: Mapping[str, bool]


class ErasureState(NamedTuple):
    before_ms: int
    done: bool  # the tables are clear
    places: list[PlaceStatus]


class BucketMember(NamedTuple):
    """A row of segment_member."""

    bucket: int
    user_id: str
    since_ms: int


class StoredUserSegment(NamedTuple):
    """A row of user_segment; `reason` is JSON."""

    segment: str
    member: bool
    since_ms: int
    version: int | None
    reason: str | None


class TrendPoints(NamedTuple):
    complete_until_ms: int
    points: list[Point]


class DriftHistory(NamedTuple):
    """periods: hour and day, each with its state and the latest decisions, newest first."""

    reference: str
    periods: Mapping[str, tuple[DriftState, Sequence[DriftDecision]]]


class FlagFile(NamedTuple):
    """A flag and the work on it."""

    flag: StoredFlag
    state: StoredAlertState
    history: list[StateChange]
    snoozes: list[Snooze]
    cases: list[AlertCase]


class AuditEntry(NamedTuple):
    """A write through the API. `entry_id` and `day` are set by the store."""

    key_id: str
    name: str
    action: str
    target: str
    request_id: str
    requested: dict[str, Any]
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    outcome: str = "started"
    at_ms: int = 0


class ScanBusy(LiveprofileError):
    """Another scan runs in this process."""


class ScanTooLarge(LiveprofileError):
    """The scan has more rows, or takes longer, than the settings allow."""


class Store(Protocol):
    """Every method raises ServiceError if the store does not answer. Rows are newest first.

    `limit`: at most so many rows. `after`: the position of the last row of the page before.
    """

    async def check(self) -> None:
        """Returns if the store answers."""

    async def key(self, key_id: str) -> StoredKey | None: ...

    async def profiles(self, user_ids: Sequence[str], embedding: bool) -> list[RawProfile]:
        """The profiles of those users who have one, in any order."""

    async def some_profiles(self, limit: int) -> list[RawProfile]:
        """Of users who are chosen by the hash of their id: as good as at random, always the same.

        Without embeddings.
        """

    async def deltas(self, user_id: str, until_ms: int, limit: int) -> list[RawDelta]:
        """Of windows that end at `until_ms` or earlier."""

    async def scores(self, user_id: str, after: tuple[int, str] | None, limit: int) -> ScorePage:
        """after: event_time_ms, event_id. There may be fewer than `limit` with more to follow."""

    async def flags(
        self, user_id: str, since_ms: int, after: tuple[int, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        """after: window_end_ms, rule_id, event_id."""

    async def all_flags(
        self, since_ms: int, after: tuple[int, str, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        """after: window_end_ms, user_id, rule_id, event_id."""

    async def with_states(self, flags: Sequence[StoredFlag]) -> list[FlagWithState]: ...

    async def similar(self, user_id: str, k: int, segment: str | None) -> list[SimilarUser] | None:
        """None for an unknown user."""

    async def flag_file(self, flag_id: str) -> FlagFile:
        """Raises UnknownFlag."""

    async def segment_members(
        self, segment: str, after: tuple[int, str] | None, limit: int
    ) -> list[BucketMember]:
        """By bucket and user. after: bucket, user_id."""

    async def segment_sizes(self, segment: str, limit: int) -> list[SegmentSize]: ...

    async def user_segments(self, user_id: str) -> list[StoredUserSegment]:
        """Of all segments that the user is or was in."""

    async def attributes(self, user_id: str) -> list[Statement]:
        """What other systems state about the user, expired statements included."""

    async def cases(
        self, user_id: str | None, after: tuple[str, str, int] | None, limit: int
    ) -> list[AlertCase]:
        """after: user_id, rule_id, number. Of all users they have no order that means anything."""

    async def snoozes(self, user_id: str) -> list[Snooze]: ...

    async def trend(
        self, series: Series, span: str, metric: Metric, count: int
    ) -> TrendPoints | None:
        """The last `count` complete hours or days, oldest first. None: nothing has been counted."""

    async def forecast(self, series: Series, metric: Metric) -> StoredForecast | None:
        """The hours of the next day. None: nothing has been counted."""

    async def funnel(
        self,
        steps: Sequence[str],
        within_ms: int,
        last_ms: int,
        by: Literal["segment", "category"],
    ) -> StoredFunnel:
        """Of the deltas of the last `last_ms`. Raises ScanBusy, ScanTooLarge."""

    async def retention(self, event_type: str | None) -> list[Cohort]:
        """Oldest first. Raises ScanBusy, ScanTooLarge."""

    async def set_state(
        self, flag_id: str, state: AlertState, by: str, note: str, audit: AuditEntry
    ) -> StoredAlertState:
        """Raises UnknownFlag, TransitionError."""

    async def label(
        self, flag_id: str, label: LabelName, by: str, note: str, audit: AuditEntry
    ) -> tuple[StoredAlertState, int]:
        """As `set_state` with the label's state; then sends the label. Returns how many were."""

    async def snooze(
        self, user_id: str, rule_id: str, until_ms: int, by: str, note: str, audit: AuditEntry
    ) -> Snooze: ...

    async def end_snooze(self, user_id: str, rule_id: str, audit: AuditEntry) -> None: ...

    async def definitions(self, kind: DefinitionKind) -> InForce:
        """The rules or segments that jobs use."""

    async def put_definitions(
        self,
        kind: DefinitionKind,
        definitions: Sequence[Definition],
        expected_tag: str | None,
        audit: AuditEntry | None,
    ) -> Applied:
        """Makes these valid definitions the ones in force. audit: None for a dry run.

        expected_tag: of the definitions that the caller has seen; None: any. Raises
        DefinitionsChanged.
        """

    async def backtest_rules(self, edited: Sequence[Rule], days: int) -> Backtest:
        """Compares valid rules with those in force, over the last days that are stored.

        Raises ScanBusy, ScanTooLarge.
        """

    async def propose_rules(
        self, rules: Sequence[Rule], base_tag: str, note: str, audit: AuditEntry
    ) -> Proposal:
        """Stores valid rules for another person to approve. base_tag: as `expected_tag`."""

    async def rule_proposals(self, limit: int) -> list[Proposal]: ...

    async def rule_proposal(self, proposal_id: str) -> Proposal:
        """Raises UnknownProposal."""

    async def approve_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        """Puts the rules of a proposal in force.

        Raises UnknownProposal, OwnProposal, ProposalDecided, DefinitionsChanged.
        """

    async def refuse_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        """Raises UnknownProposal, ProposalDecided."""

    async def preview_segments(
        self, segments: Sequence[Segment], at_ms: int
    ) -> tuple[int, list[SegmentPreview]]:
        """What these definitions would change at a time: all users, and each segment.

        Raises ScanBusy, ScanTooLarge.
        """

    async def campaigns(self) -> list[StoredPlan]:
        """Newest start first."""

    async def campaign(self, name: str) -> StoredPlan:
        """Raises UnknownCampaign."""

    async def campaign_targets(self, name: str, bucket: int) -> list[Target]:
        """Of one of SEGMENT_BUCKETS buckets. Raises UnknownCampaign."""

    async def plan_campaign(self, wish: Wish, audit: AuditEntry | None) -> dict[str, Any]:
        """Plans, stores the plan, and returns its summary. audit: None for a dry run.

        Raises CampaignExists, ScanBusy, ScanTooLarge.
        """

    async def campaign_report(
        self, name: str, days_ms: int
    ) -> tuple[StoredPlan, Mapping[str, Uplift]]:
        """Outcomes of `days_ms` from the start. Raises UnknownCampaign, ScanBusy, ScanTooLarge."""

    async def consents(self, user_id: str) -> ConsentState:
        """What a user has allowed."""

    async def change_consent(
        self, user_id: str, change: ConsentChange, audit: AuditEntry
    ) -> ConsentState:
        """Stores a change, then sends it to the job. Repeating it changes nothing."""

    async def erasure(self, user_id: str) -> ErasureState | None:
        """The newest erasure of a user; None: none was asked for here, and none is carried out."""

    async def request_erasure(
        self, user_id: str, before_ms: int, audit: AuditEntry
    ) -> ErasureState:
        """Makes the job forget a user; `liveprofile privacy erase --pending` deletes the rows."""

    async def audit_trail(self, day_ms: int, limit: int) -> list[AuditEntry]:
        """The writes of the UTC day that contains the time."""

    async def start_entry(self, audit: AuditEntry) -> str:
        """Stores an entry of what takes long, and returns its id for `complete_entry`."""

    async def complete_entry(self, entry_id: str, audit: AuditEntry) -> None:
        """Replaces an entry that `start_entry` has stored."""

    async def audits(self, limit: int) -> list[AuditResult]:
        """What `liveprofile events audit` has found, newest first."""

    async def drift(self, periods: int) -> DriftHistory | None:
        """Of the fraud model's input. None: it is not monitored."""

    async def rejected_records(self, reason: str | None, limit: int) -> list[RejectedRecord]:
        """The newest first, of the last REJECTED_OFFSETS of each partition; starts of payloads."""

    async def rejected_record(self, record_id: str) -> RejectedRecord | None:
        """Raises InputError. None: its offset holds no record."""

    async def resend(self, record_id: str, payload: bytes, audit: AuditEntry | None) -> None:
        """Sends a corrected record. audit: None only checks it. Raises InputError."""
