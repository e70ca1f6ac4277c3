"""Example of a shop's alert consumer: opens a case, calls a webhook and restricts the account.

    LIVEPROFILE_WEBHOOK_SECRET=whsec_... python examples/alert_consumer.py https://shop.example/risk

The command line does the same without restrictions:

    liveprofile risk consume --open-case --webhook https://shop.example/risk --min-severity high
"""

from __future__ import annotations

import sys
from datetime import datetime
from functools import partial

from cli.common import read_settings
from liveprofile.alerts.cases.flags import find_flag
from liveprofile.alerts.consumer import (
    AlertConsumer,
    OpenCase,
    RestrictAccount,
    Severity,
    Webhook,
    stop_on_signals,
)
from liveprofile.storage.connection import open_session


class PrintingAccounts:
    """Prints restrictions. Call your account service here instead."""

    def restrict(self, user_id: str, action: str, until: datetime, reason: str) -> None:
        print(f"{action} for user {user_id} until {until:%Y-%m-%d %H:%M} UTC: {reason}")


def main(webhook_url: str) -> None:
    """Handles alerts until SIGINT or SIGTERM, then prints the counts."""
    settings = read_settings(None)
    with open_session(settings.cassandra) as session:
        handlers = [
            OpenCase(session, settings.cassandra.case_ttl_s),
            Webhook.from_environment(webhook_url),
            RestrictAccount(PrintingAccounts(), partial(find_flag, session)),
        ]
        consumer = AlertConsumer.connect(settings, handlers, session, min_severity=Severity.HIGH)
        with stop_on_signals(consumer):
            print(consumer.run())


if __name__ == "__main__":
    main(sys.argv[1])
