"""Lines that the end of a test run prints after the results. xdist workers send theirs."""

from __future__ import annotations

LINES: list[str] = []
