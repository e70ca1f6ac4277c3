"""A risk alert as a typed object, after schemas/risk-alert.schema.json."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from liveprofile.alerts import ALERT_TYPE
from liveprofile.rules.flags import Severity

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _AlertModel(BaseModel):
    # Later versions may add fields. The consumer keeps them and passes them on.
    model_config = ConfigDict(extra="allow", frozen=True)


class AlertReason(_AlertModel):
    code: str
    value: float | None  # None: unknown
    usual: float | None
    sentence: str


class AlertData(_AlertModel):
    user_id: Id
    rule_id: Id
    reason: str
    severity: Severity
    action: str
    value: float
    threshold: float
    message: str
    evidence: dict[str, Any]
    window_start: AwareDatetime
    window_end: AwareDatetime
    model_version: str
    rules_version: str
    event_id: str | None  # None: a window raised the flag
    rule_version: int
    rule_state: str
    reasons: tuple[AlertReason, ...]


class _CloudEventType(_AlertModel):
    type: str


class Alert(_AlertModel):
    """A CloudEvents 1.0 event of type ALERT_TYPE."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]  # the flag's id; duplicates share it
    source: str
    type: str
    subject: Id  # the user_id
    time: AwareDatetime  # end of the window, or of the event
    data: AlertData

    @property
    def user_id(self) -> str:
        return self.subject

    def to_json(self) -> bytes:
        """Returns the event as CloudEvents structured JSON, with every field that was received."""
        return self.model_dump_json(exclude_unset=True).encode()


class InvalidAlertError(ValueError):
    """The record is not a valid alert. The message is one line that names the field."""


def read_alert(value: bytes | None) -> Alert | None:
    """Parses a record; None for another event type, such as drift. Raises InvalidAlertError."""
    try:
        event_type = _CloudEventType.model_validate_json(value or b"").type
        return Alert.model_validate_json(value or b"") if event_type == ALERT_TYPE else None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidAlertError(f"{field}: {first['msg']}" if field else first["msg"]) from None
