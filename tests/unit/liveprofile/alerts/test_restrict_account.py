"""The handler that restricts accounts, and the import of a shop's own accounts object."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from liveprofile.alerts.cases.flags import UnknownFlag
from liveprofile.alerts.consumer import AlertRefused, RestrictAccount
from liveprofile.alerts.consumer.handlers import load_accounts
from liveprofile.errors import InputError
from liveprofile.storage.cql import from_ms, now_ms
from liveprofile.storage.queries import StoredFlag
from tests.unit.liveprofile.alerts.fake_kafka import an_alert


class FakeAccounts:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def restrict(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def stored_flag(time_ms: int, action: str) -> StoredFlag:
    return StoredFlag(
        "u-1", time_ms, time_ms, "rule", an_alert().id, "CODE", "high", action, 9.0, 3.0, "9 of 3",
        {}, "model", "rules",
    )  # fmt: skip


def calls(flag: StoredFlag, times: int = 1) -> list[tuple[Any, ...]]:
    accounts = FakeAccounts()
    # The alert itself names another user, action and time: only the flag counts.
    alert = an_alert(action="restrict_trading")
    for _ in range(times):
        RestrictAccount(accounts, {alert.id: flag}.__getitem__, timedelta(hours=2)).handle(alert)
    return accounts.calls


def test_restriction_is_that_of_the_stored_flag_and_starts_at_its_time():
    flag = stored_flag(now_ms(), "limit_trading")
    until = from_ms(flag.window_end_ms) + timedelta(hours=2)
    call = ("u-1", "limit_trading", until, "CODE: 9 of 3")
    assert calls(flag, times=2) == [call, call]  # a duplicate asks for the same restriction


def test_old_flag_or_other_action_restricts_nobody():
    assert not calls(stored_flag(now_ms() - 3 * 3_600_000, "limit_trading"))
    assert not calls(stored_flag(now_ms(), "notify_customer_service"))


def test_alert_without_a_stored_flag_is_refused():
    def find_flag(flag_id: str) -> StoredFlag:
        raise UnknownFlag(flag_id)

    accounts = FakeAccounts()
    with pytest.raises(AlertRefused, match="no flag is stored"):
        RestrictAccount(accounts, find_flag).handle(an_alert(action="limit_trading"))
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
