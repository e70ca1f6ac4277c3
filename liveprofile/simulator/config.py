"""What a generated shop is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

START = date(2024, 1, 1)
# Planted per 10,000 users and day where no count is given.
TAKEOVERS, CARD_TESTS, RINGS, HONEST_CHANGES, CAMPAIGNS = 2.0, 0.5, 0.2, 5.0, 0.2
# A user is in one case at most: no more than one case to so many users by default.
USERS_PER_CASE = {
    "takeovers": 20, "card_tests": 20, "rings": 150, "honest_changes": 8, "campaigns": 150
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Raises InputError for a value that is out of range. Counts of None follow the rates above."""

    users: int
    days: int
    start: date = START
    seed: int = 0
    events_per_user_day: float = 5.0
    takeovers: int | None = None
    card_tests: int | None = None
    rings: int | None = None
    honest_changes: int | None = None
    campaigns: int | None = None
    ring_users: int = 50
    ring_devices: int = 3

    def __post_init__(self) -> None:
        lowest = {
            "users": 1, "days": 1, "seed": 0, "takeovers": 0, "card_tests": 0, "rings": 0,
            "honest_changes": 0, "campaigns": 0, "ring_users": 1, "ring_devices": 1,
        }  # fmt: skip
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} = {value}: must be at least {least}")
        if not 0 < self.events_per_user_day <= 1_000:
            raise InputError(
                f"events_per_user_day = {self.events_per_user_day}: must be above 0, at most 1000"
            )
        if self.ring_devices > self.ring_users:
            raise InputError(
                f"ring_devices = {self.ring_devices}: must be at most ring_users"
                f" = {self.ring_users}"
            )
        rates = {
            "takeovers": TAKEOVERS, "card_tests": CARD_TESTS, "rings": RINGS,
            "honest_changes": HONEST_CHANGES, "campaigns": CAMPAIGNS,
        }  # fmt: skip
        for name, rate in rates.items():
            if getattr(self, name) is None:
                count = max(1, round(rate * self.users * self.days / 10_000))
                # The way for a frozen dataclass to complete itself.
                object.__setattr__(self, name, min(count, self.users // USERS_PER_CASE[name]))

    @property
    def start_ms(self) -> int:
        """Midnight UTC before the first event."""
        midnight = datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1_000

    @property
    def end_ms(self) -> int:
        """No event is this late."""
        return self.start_ms + self.days * DAY_MS

    def ordinary_of(self, users: int, share: float) -> int:
        """How many of a crowd of so many are ordinary users; a tenth of all those at most."""
        return min(int(users * share), self.users // 10)
