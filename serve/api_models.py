"""What the read API takes and answers. The server and its client use the same models.

Times are UTC epoch milliseconds. docs/data-contract.md defines the values, docs/api.md the routes.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from liveprofile.attributes.statements import Attribute as StatedAttribute
from liveprofile.consent.changes import ConsentChange
from liveprofile.rows.operations import AuditEntry
from liveprofile.rows.profiles import StoredDelta, UserProfile
from liveprofile.rows.risk import StoredFlag, StoredScore
from liveprofile.rows.table import row_model
from liveprofile.storage.queries import SimilarUser
from services.alerts.case_store import AlertCase
from services.alerts.snooze import Snooze
from services.alerts.states import StateChange, StoredAlertState
from services.privacy.erasure_log import PlaceStatus
from services.requests import MAX_ID_CHARS, WHOLE, RequestBody, UserIdText, WholeNumber

MAX_BATCH_USERS = 100
MAX_PAGE_ROWS = 1_000
MAX_NOTE_CHARS = 2_000
DAY_S = 86_400

Item = TypeVar("Item")
AlertStateName = Literal["open", "acknowledged", "confirmed", "false_positive", "closed"]


class Answer(BaseModel):
    """A part of an answer. A client ignores fields of later versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# Rows that are answered as they are.
StateFields = row_model(StoredAlertState, Answer)
AlertChange = row_model(StateChange, Answer)
UserSnooze = row_model(Snooze, Answer)
CustomerCase = row_model(AlertCase, Answer)
Lookalike = row_model(SimilarUser, Answer)
ConsentChanged = row_model(ConsentChange, Answer)
ErasedPlace = row_model(PlaceStatus, Answer)
AuditRecord = row_model(AuditEntry, Answer)


class Profile(row_model(UserProfile, Answer, without=["embedding"])):
    """The user as of the last closed window."""

    values_at_ms: int | None = Field(
        None, description="the time of churn and expected_spend: the last full hour, or window_end"
    )
    embedding: list[float] | None = Field(None, description="only with ?embedding=true")


class PastProfile(Answer):
    """What the profile said at an earlier time, from the delta of the last window before it."""

    user_id: str
    at_ms: int = Field(description="the time that was asked for")
    window_start_ms: int
    window_end_ms: int
    model_version: str
    churn: float | None
    expected_spend: float | None
    features: dict[str, float | None]


class ProfileBatch(Answer):
    profiles: list[Profile]
    unknown: list[str] = Field(description="ids without a profile")


class Delta(row_model(StoredDelta, Answer, without=["digests"])):
    """The changes of one window."""


class Score(row_model(StoredScore, Answer)):
    """A scored event."""


class RiskFlag(row_model(StoredFlag, Answer)):
    """A risk flag of a window or an event."""


class RiskAlert(StateFields, RiskFlag):
    """A flag with what analysts made of it."""


class AlertDetails(RiskAlert):
    history: list[AlertChange]
    snoozes: list[UserSnooze]
    cases: list[CustomerCase]


class StoredState(StateFields):
    """The state of an alert after a change."""

    flag_id: str
    labels_sent: int = Field(0, description="records sent to the topic risk-feedback")


class PartOfProfile(Answer):
    user_id: str
    window_end_ms: int
    model_version: str


class NextItems(PartOfProfile):
    next_items: list[str] = Field(description="most probable first")


class Interests(PartOfProfile):
    interests: dict[str, float] = Field(description="the user's likely next categories")
    category_affinity: dict[str, float] = Field(description="long-term shares")


class Lookalikes(Answer):
    user_id: str
    similar: list[Lookalike]


class Attribute(row_model(StatedAttribute, Answer)):
    """What another system states about the user: not inferred by Liveprofile."""

    name: str


class UserAttributes(Answer):
    items: list[Attribute]
    computed: dict[str, float | None] = Field(description="by the job from events; null: unknown")


class Items(Answer, Generic[Item]):
    """All that there are."""

    items: list[Item]


class Page(Answer, Generic[Item]):
    """A page may have fewer items than asked for; only a null cursor means the end."""

    items: list[Item]
    next_cursor: str | None


class ConsentInForce(Answer):
    basis: str
    text_version: str
    allowed: bool
    since_ms: int | None = Field(description="null: the default of the settings")


class UserConsents(Answer):
    user_id: str
    purposes: dict[str, ConsentInForce] = Field(description="what is in force now, by purpose")
    history: list[ConsentChanged] = Field(description="the newest 200 changes, newest first")


class UserErasure(Answer):
    user_id: str
    before_ms: int = Field(description="everything of the user before this time is erased")
    done: bool = Field(description="the tables are clear")
    places: list[ErasedPlace]


class Health(Answer):
    status: Literal["ok"]


class FieldProblem(Answer):
    field: str
    message: str


class Problem(Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] = []


class BatchRequest(RequestBody):
    user_ids: list[UserIdText] = Field(min_length=1, max_length=MAX_BATCH_USERS)
    embedding: bool = False


class StateRequest(RequestBody):
    state: Literal["acknowledged", "closed"]
    note: str = Field("", max_length=MAX_NOTE_CHARS)


class LabelRequest(RequestBody):
    label: Literal["fraud", "legitimate"]
    note: str = Field("", max_length=MAX_NOTE_CHARS)


# The limits stand before the validator: the document would not have them as minimum and maximum.
EventTime = Annotated[int, Field(ge=946_684_800_000, le=253_402_300_799_999), WHOLE]


class ConsentRequest(RequestBody):
    granted: bool = Field(description="false: withdrawn")
    time_ms: EventTime | None = Field(None, description="from when on it counts; null: now")
    basis: str = Field("", max_length=MAX_ID_CHARS, description="legal basis, such as consent")
    text_version: str = Field("", max_length=MAX_ID_CHARS, description="of the text read")


class ErasureRequest(RequestBody):
    before_ms: EventTime | None = Field(None, description="null: now")


class SnoozeRequest(RequestBody):
    for_s: WholeNumber = Field(ge=60, le=365 * DAY_S, description="from now")
    note: str = Field("", max_length=MAX_NOTE_CHARS)
