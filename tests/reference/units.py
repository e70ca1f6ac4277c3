"""Durations in milliseconds."""

SECOND_MS = 1_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
