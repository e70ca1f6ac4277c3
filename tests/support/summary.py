"""What the end of a test run tells beside the results, whichever process came to know it."""

from __future__ import annotations

LINES: list[str] = []
