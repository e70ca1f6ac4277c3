"""Statements about users, for tests."""

from typing import Any

from liveprofile.attributes.statements import Statement, new_statement
from liveprofile.rules.conditions import AttributeValue
from liveprofile.units import DAY_MS


def stated(
    user_id: str, time_ms: int, days: float = 10, purpose: str = "any", **values: AttributeValue
) -> Statement:
    """What source crm says of the user from a time on, for some days."""
    fields: dict[str, Any] = {"source": "crm", "kind": "declared", "purpose": purpose}
    return new_statement(
        user_id=user_id,
        time_ms=time_ms,
        expires_ms=time_ms + round(days * DAY_MS),
        values=values,
        **fields,
    )
