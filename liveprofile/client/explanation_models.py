"""What the read API takes and answers about explanations of windows.

models.py has the rest, and says what both have in common.
"""

from __future__ import annotations

from pydantic import Field

from liveprofile.client.models import Answer, EventTime, RequestBody


class ExplanationRequest(RequestBody):
    at_ms: EventTime | None = Field(
        None, description="the last window that ended by then, as its end; null: the newest"
    )


class ValuesBefore(Answer):
    """At the window's start; null if none were stored."""

    churn: float | None
    expected_spend: float | None


class StoredValues(Answer):
    """At the window's end."""

    churn: float = Field(description="probability of no purchase within the model's horizon")
    expected_spend: float = Field(description="median, within the same horizon")
    interests: dict[str, float] = Field(
        description="the largest shares; empty if the user does not allow recommendations"
    )


class ExplainedEvent(Answer):
    """An event and its effects: the stored value minus the model's value without the event."""

    event_id: str
    time_ms: int
    event_type: str
    item: str
    category: str
    amount: float
    churn: float
    expected_spend: float
    interests: float = Field(
        description="Jensen-Shannon divergence of the shares from those without the event, in nats"
    )
    moved_interests: list[tuple[str, float, float]] = Field(
        description="category, share without the event, stored share; those that moved most first"
    )


class Explanation(Answer):
    """A window, and what each of its events changed. Effects do not add up."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    events: int = Field(description="of the window")
    before: ValuesBefore
    stored: StoredValues
    effects: list[ExplainedEvent] = Field(description="the newest 500 events, in order of time")
