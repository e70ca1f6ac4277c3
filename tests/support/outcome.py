"""What a program in `tests/` requires of a job at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.compare import Comparison, compare_with_reference
from tests.support.job_under_test import JobUnderTest
from tests.support.progress import say


class Outcome(NamedTuple):
    state: str
    restarts: int
    audit: dict[str, Any]
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """The job ran without a restart, the audit is clean, and all equals the reference's."""
        return bool(
            self.audit["ok"]
            and self.comparison.ok
            and self.state == "RUNNING"
            and not self.restarts
        )


def end_job(job: JobUnderTest) -> Outcome:
    """Cancels the job, audits its records and compares what it stored with the reference."""
    state, restarts = job.state(), job.restarts()
    job.cancel()  # an idle job takes the CPU time that the comparison needs
    say("auditing, and comparing with the reference")
    return Outcome(state, restarts, job.audit(), compare_with_reference(job.settings))
