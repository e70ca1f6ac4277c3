"""`liveprofile doctor`: finds misconfigurations of the services, and says what to do."""

import typer

from cli.common import JobCall, table


def doctor(call: JobCall) -> None:
    """Check services, permissions and settings, and print what is wrong with a way out.

    It changes nothing. Exit code 1 if there is a finding. A service that does not answer is one
    finding, and its other checks are skipped.

    Example: `liveprofile doctor --json`
    """
    from cli.doctor.checks import NAMES, examine
    from cli.doctor.collect import collect

    findings, skipped = examine(collect(call.settings), call.settings)
    rows = [
        {
            "check": name,
            "state": "skipped" if name in skipped else "wrong" if own else "ok",
            "problem": "; ".join(finding.problem for finding in own),
            "way_out": own[0].way_out if own else "",
        }
        for name in NAMES
        for own in [[finding for finding in findings if finding.check == name]]
    ]
    call.print(
        {
            "ok": not findings,
            "findings": [finding._asdict() for finding in findings],
            "skipped": skipped,
            "checks": NAMES,
        },
        table(call.job.pipeline, rows, "check state problem way_out"),
    )
    if findings:
        raise typer.Exit(1)
