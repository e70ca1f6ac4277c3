"""Frequency caps, when a campaign is planned and when it is sent."""

from __future__ import annotations

import pytest

from liveprofile.campaigns.frequency_cap import Cap, Contact, is_at_cap
from liveprofile.units import DAY_MS

START_MS = 1_700_000_000_000
OWN = Contact(START_MS, "spring")
MONTH = 30 * DAY_MS


def contact(campaign: str, days: float) -> Contact:
    return Contact(START_MS + round(days * DAY_MS), campaign)


@pytest.mark.parametrize(
    ("contacts", "most", "expected"),
    [
        ([], 1, False),
        ([contact("a", -1)], 1, True),
        ([contact("a", -1)], 2, False),
        ([contact("a", -30)], 1, True),
        ([contact("a", -30.01)], 1, False),
        ([contact("a", -1), contact("a", -2)], 2, True),
        ([contact("spring", -1)], 1, False),  # the same campaign, planned for another time
        ([contact("a", 5)], 1, True),  # planned for later
        ([contact("a", 5), OWN], 1, False),  # this one was first
        ([contact("a", -5), OWN], 1, True),
        ([contact("a", 0), OWN], 1, True),
        ([contact("z", 0), OWN], 1, False),
    ],
)
def test_contacts_of_other_campaigns_count(
    contacts: list[Contact], most: int, expected: bool
) -> None:
    assert is_at_cap(iter(contacts), OWN, Cap(contacts=most, span_ms=MONTH)) is expected


def test_one_of_two_campaigns_that_were_planned_at_once_keeps_the_user() -> None:
    planned = [contact("a", 0), contact("b", 0), contact("c", 1)]
    cap = Cap(contacts=1, span_ms=MONTH)
    assert [is_at_cap(planned, own, cap) for own in planned] == [False, True, True]
