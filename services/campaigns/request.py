"""What is asked of a new campaign."""

from typing import Annotated

from pydantic import Field

from services.requests import WHOLE, RequestBody, UserIdText, WholeNumber

CAMPAIGN_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
StartTime = Annotated[int, Field(ge=0, le=4_102_444_800_000), WHOLE]  # until 2100


class FrequencyCap(RequestBody):
    """Leaves out users with so many contacts of other campaigns in the days before the start."""

    contacts: WholeNumber = Field(ge=1, le=1_000)
    days: WholeNumber = Field(ge=1, le=3_650)


class CampaignRequest(RequestBody):
    """docs/campaigns.md defines the values."""

    segments: list[str] = Field([], max_length=100, description="of one of these; empty: of any")
    when: str | None = Field(None, max_length=10_000, description="condition over profiles")
    control_share: float = Field(0.1, ge=0, le=0.99)
    budget: float | None = Field(None, ge=0, le=1e12, description="sum of costs; null: no limit")
    cost: float = Field(0.0, ge=0, le=1e9, description="of one contact")
    margin: float = Field(1.0, ge=0, le=1, description="share of the spend that counts as gain")
    response: float | None = Field(None, ge=0, le=1, description="null: 1 - churn")
    cap: FrequencyCap | None = None
    excluded: list[UserIdText] = Field([], max_length=200, description="users to leave out")
    start_ms: StartTime | None = Field(None, description="null: now")
