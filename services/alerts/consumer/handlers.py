"""Alert handlers that open customer-service cases and restrict accounts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from cassandra.cluster import Session

from liveprofile.storage.cql import from_ms, to_ms
from liveprofile.storage.queries import StoredFlag
from services.alerts import case_store
from services.alerts.consumer.alert import Alert
from services.alerts.consumer.loop import AlertRefusedError
from services.alerts.flags import UnknownFlagError

# Rule actions that restrict an account. The other actions are for people.
RESTRICTING_ACTIONS = frozenset({"step_up_verification", "limit_trading", "restrict_trading"})
RESTRICTION_DURATION = timedelta(hours=24)


class OpenCase:
    """Adds the alert to the open case of its user and rule, or opens a case.

    ttl_s: how long a case is kept after its last change.
    """

    name = "open_case"

    def __init__(self, session: Session, ttl_s: int):
        self._session, self._ttl_s = session, ttl_s

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
            ttl_s=self._ttl_s,
        )


class Accounts(Protocol):
    """The interface that a shop implements to restrict accounts."""

    def restrict(self, user_id: str, action: str, until: datetime, reason: str) -> None:
        """Restricts an account by the rule's action, such as limit_trading.

        Must be idempotent: a second call with the same arguments changes nothing.
        until: UTC. reason: a code and a sentence. Raises AlertRefusedError if the account cannot
        be restricted, for example because it no longer exists; any other exception is retried.
        """


class RestrictAccount:
    """Restricts the account for `duration` from the flag's time on.

    Only the stored flag decides: whoever can write to the alert topic cannot restrict an account.
    The flag's time counts, not the wall clock: a duplicate asks for the same restriction, and a
    flag of last year restricts nobody.

    find_flag: reads the flag with an id; raises UnknownFlagError.
    """

    name = "restrict_account"

    def __init__(
        self,
        accounts: Accounts,
        find_flag: Callable[[str], StoredFlag],
        duration: timedelta = RESTRICTION_DURATION,
    ):
        self._accounts, self._find_flag, self._duration = accounts, find_flag, duration

    def handle(self, alert: Alert) -> None:
        """Raises AlertRefusedError if the flag is not stored, ServiceError, and whatever the shop's
        `restrict` raises."""
        try:
            flag = self._find_flag(alert.id)
        except UnknownFlagError:
            raise AlertRefusedError("no flag is stored for this alert") from None
        until = from_ms(flag.window_end_ms) + self._duration
        if flag.action in RESTRICTING_ACTIONS and until > datetime.now(UTC):
            reason = f"{flag.reason}: {flag.message}"
            self._accounts.restrict(flag.user_id, flag.action, until, reason)
