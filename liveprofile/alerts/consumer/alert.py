"""A risk alert as a typed object: schemas/risk-alert.schema.json in Python."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

TYPE = "liveprofile.risk.flag"
Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low, 3 for critical."""
        return list(Severity).index(self)


class _Part(BaseModel):
    # Later versions may add fields: they are kept and passed on.
    model_config = ConfigDict(extra="allow", frozen=True)


class Reason(_Part):
    code: str
    value: float | None  # None: not known
    usual: float | None
    sentence: str


class AlertData(_Part):
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
    # Alerts of earlier versions of Liveprofile lack these.
    event_id: str | None = None  # None: a window raised the flag
    rule_version: int | None = None
    rule_state: str = "ACTIVE"
    reasons: tuple[Reason, ...] = ()


class _Typed(_Part):
    type: str


class Alert(_Part):
    """A CloudEvents 1.0 event of type TYPE."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]  # the flag's id: copies have the same
    source: str
    type: Literal["liveprofile.risk.flag"]  # TYPE
    subject: Id  # the user
    time: AwareDatetime  # end of the window, or of the event
    data: AlertData

    @property
    def user_id(self) -> str:
        return self.subject

    def to_json(self) -> bytes:
        """The event in CloudEvents' structured JSON, with every field that came."""
        return self.model_dump_json(exclude_unset=True).encode()


class NotAnAlert(ValueError):
    """A record that is no alert; one line that names the field."""


def read_alert(value: bytes | None) -> Alert | None:
    """None for an event of another type, such as drift. Raises NotAnAlert."""
    try:
        given = _Typed.model_validate_json(value or b"").type
        return None if given != TYPE else Alert.model_validate_json(value or b"")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise NotAnAlert(f"{where}: {first['msg']}" if where else first["msg"]) from None
