"""`liveprofile doctor`: finds misconfigurations of the services, and says what to do."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from cli.common import JobCall

if TYPE_CHECKING:
    from cli.doctor.checks import Finding

MAX_WIDTH = 100  # columns, also where there is no terminal


def doctor(call: JobCall) -> None:
    """Check services, permissions and settings, and print what is wrong with a way out.

    It changes nothing. Exit code 1 if there is a finding. A service that does not answer is one
    finding, and its other checks are skipped.

    Example: `liveprofile doctor --json`
    """
    from cli.doctor.checks import NAMES, examine
    from cli.doctor.collect import collect

    findings, skipped = examine(collect(call.settings), call.settings)
    call.print(
        {
            "ok": not findings,
            "findings": [finding._asdict() for finding in findings],
            "skipped": skipped,
            "checks": NAMES,
        },
        *filter(None, [call.job.pipeline]),
        *report_lines(NAMES, findings, skipped),
    )
    if findings:
        raise typer.Exit(1)


def report_lines(
    names: Sequence[str], findings: Sequence[Finding], skipped: Collection[str]
) -> Iterator[str]:
    """A line for each check, and below it each problem and what to do about it."""
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    for name in names:
        own = [finding for finding in findings if finding.check == name]
        yield f"{'skipped' if name in skipped else 'wrong' if own else 'ok':<9}{name}"
        details = [finding.problem for finding in own]
        details += [f"way out: {finding.way_out}" for finding in own[:1]]  # that of the check
        for detail in details:
            yield textwrap.fill(
                detail,
                width,
                initial_indent=" " * 9,
                subsequent_indent=" " * 11,
                break_long_words=False,
                break_on_hyphens=False,
            )
