"""Counts what a program has compared with what is allowed, and what differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable


class Findings:
    """Counts what was compared, and what differs from the oracle."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: list[str] = []

    def check(self, what: str, key: object, there: bool, allowed: Iterable[bool]) -> None:
        """Compares whether something is there with whether it may and must be."""
        decisions = set(allowed)
        self.counts[what]["there" if there else "not there"] += 1
        self.counts[what]["either allowed"] += len(decisions) > 1
        if there not in decisions:
            self.counts[what]["not allowed" if there else "missing"] += 1
            self.examples.append(f"{what} {key}: {'not allowed' if there else 'missing'}")

    @property
    def ok(self) -> bool:
        return not self.examples
