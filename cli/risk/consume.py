"""`liveprofile risk consume`: handles risk alerts until it is stopped."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    print_fields,
    print_json,
    read_settings,
    refuse_empty,
)
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.alerts.consumer import Handler, Webhook
    from liveprofile.alerts.consumer.handlers import Accounts


def consume(
    open_case: bool = False,
    webhook: str | None = None,
    restrict: str | None = None,
    min_severity: Literal["low", "medium", "high", "critical"] = "low",
    group: Annotated[str, typer.Option(callback=refuse_empty)] = "liveprofile-alerts",
    workers: Annotated[int, typer.Option(min=1, max=64)] = 4,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Handle risk alerts until Ctrl-C or SIGTERM, each alert at least once.

    An alert that cannot be handled goes to the dead-letter topic risk-alerts-dead with the
    reason. At the end the counts are printed. docs/alerts.md describes the guarantees.

    Example: `liveprofile risk consume --open-case --webhook https://example.org/alerts`

    Options:
    open_case: Open a customer-service case per alert in Cassandra.
    webhook URL: POST each alert to this URL, signed with the secret in LIVEPROFILE_WEBHOOK_SECRET.
    restrict MODULE:NAME: Restrict accounts with this Python object; it has the method
        restrict(user_id, action, until, reason).
    min_severity: Ignore alerts below this severity.
    group NAME: Kafka consumer group; the consumers of a group share the alerts.
    workers: Number of threads.
    """
    from liveprofile.alerts.consumer import AlertConsumer, Severity, Webhook, stop_on_signals
    from liveprofile.alerts.consumer.handlers import load_accounts
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    # Created before anything connects, because they check the options.
    post = Webhook.from_environment(webhook) if webhook else None
    accounts = load_accounts(restrict) if restrict else None
    if not (open_case or post or accounts):
        raise InputError("no handler: give --open-case, --webhook or --restrict")
    # The consumer logs the outcome of each alert; user ids in these lines are hashed.
    logging.getLogger("liveprofile.alerts.consumer").setLevel(logging.INFO)
    with open_session(settings.cassandra) as session:
        consumer = AlertConsumer.connect(
            settings,
            create_handlers(session, settings.cassandra.case_ttl_s, open_case, post, accounts),
            session,
            group_id=group,
            min_severity=Severity(min_severity),
            workers=workers,
        )
        with stop_on_signals(consumer):
            counts = asdict(consumer.run())
    print_json(counts) if json else print_fields(counts)


def create_handlers(
    session: Session,
    case_ttl_s: int,
    open_case: bool,
    webhook: Webhook | None,
    accounts: Accounts | None,
) -> list[Handler]:
    """Creates the handlers that the options request."""
    from liveprofile.alerts.cases.flags import find_flag
    from liveprofile.alerts.consumer import OpenCase, RestrictAccount

    handlers: list[Handler] = []
    if open_case:
        handlers.append(OpenCase(session, case_ttl_s))
    if webhook is not None:
        handlers.append(webhook)
    if accounts is not None:
        handlers.append(RestrictAccount(accounts, partial(find_flag, session)))
    return handlers
