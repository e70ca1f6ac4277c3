"""`liveprofile doctor`: finds misconfigurations of the services, and says what to do."""

from __future__ import annotations

import typer

from cli.common import Call


def doctor(call: Call) -> None:
    """Check services, permissions and settings, and print what is wrong with a way out.

    It changes nothing. Exit code 1 if there is a finding. A service that does not answer is one
    finding, and its other checks are skipped.

    Example: `liveprofile doctor --json`
    """
    from cli.doctor.checks import NAMES, examine
    from cli.doctor.collect import collect

    findings, skipped = examine(collect(call.settings), call.settings)
    shown = []
    for name in NAMES:
        own = [finding for finding in findings if finding.check == name]
        shown.append(f"{'skipped' if name in skipped else 'wrong' if own else 'ok':<8} {name}")
        for finding in own:
            shown.append(f"         {finding.problem}\n         -> {finding.way_out}")
    call.print(
        {
            "ok": not findings,
            "findings": [finding._asdict() for finding in findings],
            "skipped": skipped,
            "checks": NAMES,
        },
        *shown,
    )
    if not call.json:
        count = f"{len(findings)} findings" if len(findings) != 1 else "1 finding"
        typer.echo(f"{len(NAMES)} checks, {count}, {len(skipped)} skipped", err=True)
    if findings:
        raise typer.Exit(1)
