"""What the read API takes and answers about trends, segments, rules and campaigns.

models.py has the rest, and says what both have in common.
"""

from typing import Any, Literal

from pydantic import Field

from liveprofile.rows.table import row_model
from liveprofile.segments.evaluation import SegmentPreview
from serve.api_models import Answer
from services.campaigns.plan import Target
from services.campaigns.report import Difference
from services.requests import RequestBody
from services.segments import Member, SegmentSize
from services.trends.points import DayForecast, Metric, Point

MAX_DEFINITIONS = 1_000


# Rows that are answered as they are.
TrendPoint = row_model(Point, Answer)
SegmentMember = row_model(Member, Answer)
SizeOfSegment = row_model(SegmentSize, Answer)
CampaignTarget = row_model(Target, Answer)
ReportedDifference = row_model(Difference, Answer)
PreviewOfSegment = row_model(SegmentPreview, Answer)


class Trend(Answer):
    """Counts of one series of events, oldest first."""

    complete_until_ms: int = Field(description="everything before this event time is counted")
    points: list[TrendPoint]


class TrendForecast(row_model(DayForecast, Answer)):
    """The next day of one series by hour, with an 80 % interval."""

    day_ms: int
    metric: Metric


class UserSegment(Answer):
    """Whether a user is in a segment, and why since when."""

    segment: str
    member: bool
    since_ms: int
    version: int | None
    reason: dict[str, Any]


class DefinitionsInForce(Answer):
    """The definitions that jobs use."""

    source: str = Field(description="topic or file")
    version: str
    tag: str = Field(description="the ETag, for If-Match of a change")


class RuleList(DefinitionsInForce):
    rules: list[dict[str, Any]] = Field(description="schemas/risk-rule.schema.json")


class SegmentList(DefinitionsInForce):
    segments: list[dict[str, Any]] = Field(description="schemas/segment-definition.schema.json")


class AppliedChange(Answer):
    """What became of one definition."""

    id: str
    what: Literal["added", "changed", "unchanged", "removed"]
    version: int | None = Field(description="null: removed")


class AppliedChanges(Answer):
    dry_run: bool
    tag: str = Field(description="of the definitions in force")
    changes: list[AppliedChange]


class PreviewAnswer(Answer):
    at_ms: int
    users: int = Field(description="all users")
    segments: list[PreviewOfSegment]


class PlanSummary(Answer):
    """What a plan costs and brings."""

    name: str
    start_ms: int = Field(description="outcomes count from here on")
    treatment: int
    control: int
    cost: float
    expected_gain: float
    expected_purchase_rate: float | None
    left_out: dict[str, int] = Field(description="reason: users who fit but are not in the plan")


class CampaignAnswer(Answer):
    """A planned campaign."""

    name: str
    start_ms: int
    control_share: float
    cost: float
    planned_at_ms: int
    planned_by: str
    requested: dict[str, Any]
    summary: PlanSummary


class ReportOfGroup(Answer):
    """By treatment and control; null without users. Differences are null without a control."""

    users: dict[str, int]
    purchase_rate: dict[str, float | None]
    spend_per_user: dict[str, float | None]
    rate_difference: ReportedDifference | None
    spend_difference: ReportedDifference | None


class CampaignReport(Answer):
    name: str
    start_ms: int
    end_ms: int
    has_control: bool
    groups: dict[str, ReportOfGroup] = Field(description="all, and each segment")


class RulesRequest(RequestBody):
    rules: list[dict[str, Any]] = Field(
        max_length=MAX_DEFINITIONS, description="all rules: schemas/risk-rule.schema.json"
    )


class SegmentsRequest(RequestBody):
    segments: list[dict[str, Any]] = Field(
        max_length=MAX_DEFINITIONS,
        description="all segments: schemas/segment-definition.schema.json",
    )
