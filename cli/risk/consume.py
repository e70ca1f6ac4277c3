"""`liveprofile consume`: acts on risk alerts until it is stopped."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.alerts.consumer import Handler


def consume(
    open_case: Annotated[
        bool, typer.Option("--open-case", help="Open a case for customer service in Cassandra.")
    ] = False,
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook",
            metavar="URL",
            help="POST each alert there, signed with the secret in LIVEPROFILE_WEBHOOK_SECRET.",
        ),
    ] = None,
    restrict: Annotated[
        str | None,
        typer.Option(
            "--restrict",
            metavar="MODULE:NAME",
            help="Restrict accounts by this object of yours; it has restrict(user_id, action,"
            " until, reason).",
        ),
    ] = None,
    min_severity: Annotated[
        Literal["low", "medium", "high", "critical"],
        typer.Option("--min-severity", help="Pass over alerts below."),
    ] = "low",
    group: Annotated[
        str,
        typer.Option("--group", metavar="NAME", help="Consumer group; those of one share alerts."),
    ] = "liveprofile-alerts",
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Threads.")] = 4,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Act on risk alerts until Ctrl-C or SIGTERM; each alert at least once, none lost.

    An alert that can't be dealt with goes to the topic risk-alerts-dead with the reason. The last
    line tells what was done. docs/alerts.md says what is guaranteed.
    """
    from liveprofile.alerts.consumer import AlertConsumer, Severity, stop_on_signals
    from liveprofile.storage.connection import session_of

    settings = read_settings(config)
    if not (open_case or webhook or restrict):
        raise InputError("nothing to do: give --open-case, --webhook or --restrict")
    # Its lines tell what became of each alert; user ids in them are hashed.
    logging.getLogger("liveprofile.alerts.consumer").setLevel(logging.INFO)
    with session_of(settings.cassandra) as session:
        consumer = AlertConsumer.connect(
            settings,
            handlers(session, open_case, webhook, restrict),
            session,
            group_id=group,
            min_severity=Severity(min_severity),
            workers=workers,
        )
        with stop_on_signals(consumer):
            counts = asdict(consumer.run())
    print_json(counts) if json else print_fields(counts)


def handlers(
    session: Session, open_case: bool, webhook: str | None, restrict: str | None
) -> list[Handler]:
    """Those asked for. Raises ConfigError and InputError."""
    from liveprofile.alerts.consumer import OpenCase, RestrictAccount, Webhook
    from liveprofile.alerts.consumer.handlers import load_accounts

    found: list[Handler] = []
    if open_case:
        found.append(OpenCase(session))
    if webhook:
        found.append(Webhook.from_environment(webhook))
    if restrict:
        found.append(RestrictAccount(load_accounts(restrict)))
    return found
