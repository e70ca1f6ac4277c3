"""What a program requires of a job at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.support.compare import Comparison, compare_with_reference
from tests.support.job_under_test import JobUnderTest
from tests.support.summary import say


class Outcome(NamedTuple):
    state: str
    restarts: int
    audit: dict[str, Any]
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """The job ran without a restart, the audit is clean, and all equals the reference's."""
        runs = self.state == "RUNNING" and not self.restarts
        return bool(self.audit["ok"] and self.comparison.ok and runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "restarts": self.restarts,
            "audit": self.audit,
            "comparison": self.comparison.as_json(),
        }


def end_job(job: JobUnderTest) -> Outcome:
    """Cancels the job, audits its records and compares what it stored with the reference."""
    state, restarts = job.state(), job.restarts()
    job.cancel()  # an idle job takes the CPU time that the comparison needs
    say("auditing, and comparing with the reference")
    return Outcome(state, restarts, job.audit(), compare_with_reference(job.settings))


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
