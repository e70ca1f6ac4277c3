"""Alert handlers that open customer-service cases and restrict accounts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cassandra.cluster import Session

from liveprofile.alerts.cases import case_store
from liveprofile.alerts.consumer.alert import Alert
from liveprofile.errors import InputError
from liveprofile.storage.cql import to_ms

# Rule actions that restrict an account. The other actions are for people.
RESTRICTING_ACTIONS = frozenset({"step_up_verification", "limit_trading", "restrict_trading"})
RESTRICTION_DURATION = timedelta(hours=24)


class OpenCase:
    """Adds the alert to the open case of its user and rule, or opens a case."""

    name = "open_case"

    def __init__(self, session: Session):
        self._session = session

    def handle(self, alert: Alert) -> None:
        """Idempotent. Raises ServiceError."""
        case_store.add_alert(
            self._session,
            case_store.NewAlert(
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
    """The interface that a shop implements to restrict accounts."""

    def restrict(self, user_id: str, action: str, until: datetime, reason: str) -> None:
        """Restricts an account by the rule's action, such as limit_trading.

        Must be idempotent: a second call with the same arguments changes nothing.
        until: UTC. reason: a stable code and a sentence. Raises AlertRefused if the account cannot
        be restricted, for example because it no longer exists; any other exception is retried.
        """


class RestrictAccount:
    """Restricts the account for `duration` from the alert's time on.

    The alert's time counts, not the wall clock: a duplicate asks for the same restriction, and an
    alert of last year restricts nobody. actions: the rule actions that restrict an account.
    """

    name = "restrict_account"

    def __init__(
        self,
        accounts: Accounts,
        duration: timedelta = RESTRICTION_DURATION,
        actions: Collection[str] = RESTRICTING_ACTIONS,
    ):
        self._accounts, self._duration, self._actions = accounts, duration, actions

    def handle(self, alert: Alert) -> None:
        """Raises whatever the shop's `restrict` raises."""
        until = alert.time.astimezone(UTC) + self._duration
        if alert.data.action in self._actions and until > datetime.now(UTC):
            reason = f"{alert.data.reason}: {alert.data.message}"
            self._accounts.restrict(alert.user_id, alert.data.action, until, reason)


def load_accounts(path: str) -> Accounts:
    """Imports the object `package.module:name`; instantiates it without arguments if it is a class.

    Searches the working directory too. Raises InputError.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise InputError(f"{path!r}: write package.module:name")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{path!r}: {error}") from None
    accounts = target() if isinstance(target, type) else target
    if not callable(getattr(accounts, "restrict", None)):
        raise InputError(f"{path!r} has no method restrict(user_id, action, until, reason)")
    return accounts
