"""Handlers of the shop's side: a case for customer service, a restriction of the account."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cassandra.cluster import Session

from liveprofile.alerts.cases import service
from liveprofile.alerts.consumer.alert import Alert
from liveprofile.errors import InputError
from liveprofile.storage.cql import to_ms

# Actions of rules that ask for a restriction; the others are for people.
RESTRICTIONS = frozenset({"step_up_verification", "limit_trading", "restrict_trading"})
RESTRICTED_FOR = timedelta(hours=24)


class OpenCase:
    """Opens a case of the alert's user and rule for customer service, or adds to the open one."""

    name = "open_case"

    def __init__(self, session: Session):
        self._session = session

    def handle(self, alert: Alert) -> None:
        """Harmless to repeat. Raises ServiceError."""
        service.attach(
            self._session,
            service.NewAlert(
                alert.id,
                to_ms(alert.time),
                alert.user_id,
                alert.data.rule_id,
                alert.data.severity.value,
                alert.data.action,
                alert.data.message,
            ),
        )


class Accounts(Protocol):
    """What the shop implements to restrict accounts."""

    def restrict(self, user_id: str, action: str, until: datetime, reason: str) -> None:
        """Restricts an account by what `action` says (of the rule, such as limit_trading).

        May be called again with the same arguments, and must then change nothing.
        until: UTC. reason: a stable code and a sentence. Raises Refused if the account can't be
        restricted, such as one that is gone; whatever else it raises is tried again.
        """


class RestrictAccount:
    """Restricts the account for a while from the alert's time on.

    By the alert's time and not the clock's, so that a copy asks for the same and an alert of last
    year restricts nobody. actions: the rules' actions that ask for a restriction.
    """

    name = "restrict_account"

    def __init__(
        self,
        accounts: Accounts,
        duration: timedelta = RESTRICTED_FOR,
        actions: Collection[str] = RESTRICTIONS,
    ):
        self._accounts, self._duration, self._actions = accounts, duration, actions

    def handle(self, alert: Alert) -> None:
        """Raises what the shop's `restrict` raises."""
        until = alert.time.astimezone(UTC) + self._duration
        if alert.data.action in self._actions and until > datetime.now(UTC):
            reason = f"{alert.data.reason}: {alert.data.message}"
            self._accounts.restrict(alert.user_id, alert.data.action, until, reason)


def load_accounts(path: str) -> Accounts:
    """The object that `package.module:name` names; of a class, one made without arguments.

    Modules of the working folder are found too. Raises InputError.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise InputError(f"{path!r}: write package.module:name")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{path!r}: {error}") from None
    accounts = found() if isinstance(found, type) else found
    if not callable(getattr(accounts, "restrict", None)):
        raise InputError(f"{path!r} has no method restrict(user_id, action, until, reason)")
    return accounts
