"""The handler that restricts accounts, and the import of a shop's own accounts object."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liveprofile.alerts.consumer import Alert, RestrictAccount
from liveprofile.alerts.consumer.handlers import load_accounts
from liveprofile.errors import InputError
from tests.unit.liveprofile.alerts.fake_kafka import an_alert


class FakeAccounts:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def restrict(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def recent(**data: Any) -> Alert:
    now = datetime.now(UTC).replace(microsecond=0)
    return an_alert(**data).model_copy(update={"time": now})


def test_restriction_starts_at_alert_time():
    accounts, alert = FakeAccounts(), recent(action="limit_trading")
    for _ in range(2):  # a duplicate asks for the same restriction
        RestrictAccount(accounts, timedelta(hours=2)).handle(alert)
    reason = f"{alert.data.reason}: {alert.data.message}"
    call = ("u-4711", "limit_trading", alert.time + timedelta(hours=2), reason)
    assert accounts.calls == [call, call]


def test_old_alert_or_other_action_restricts_nobody():
    accounts = FakeAccounts()
    handler = RestrictAccount(accounts)
    handler.handle(an_alert(action="limit_trading"))  # its time is in 2017
    handler.handle(recent(action="notify_customer_service"))
    assert not accounts.calls


def test_accounts_object_is_imported_by_path():
    accounts = load_accounts("examples.alert_consumer:PrintingAccounts")
    assert callable(accounts.restrict)


@pytest.mark.parametrize(
    "path", ["", "json", "json:", ":x", "no_such:x", "json:none", "json:dumps"]
)
def test_error_names_the_invalid_path(path: str):
    with pytest.raises(InputError, match=repr(path)):
        load_accounts(path)
