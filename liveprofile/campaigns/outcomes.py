"""What users did after a campaign's start, from the deltas."""

from __future__ import annotations

from collections.abc import Container, Iterable

from liveprofile.campaigns.uplift import NOTHING, Outcome
from liveprofile.storage.queries import WindowChange


def outcomes(
    changes: Iterable[WindowChange], users: Container[str], start_ms: int, end_ms: int
) -> dict[str, Outcome]:
    """Returns the outcome of each of the users with a purchase.

    A window counts that starts from start_ms on and before end_ms: one that began before the start
    has purchases of before.
    """
    found: dict[str, Outcome] = {}
    for change in changes:
        if change.user_id not in users or not start_ms <= change.window_start_ms < end_ms:
            continue
        if ((change.delta.get("window") or {}).get("counts") or {}).get("purchase"):
            before = found.get(change.user_id, NOTHING)
            found[change.user_id] = Outcome(True, before.spend + change.amount)
    return found
