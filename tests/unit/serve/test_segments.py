"""Segments over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

from liveprofile.rows.users import segment_bucket
from tests.support.memory.api import NOW_MS
from tests.support.rows.api_rows import USERS
from tests.unit.serve.test_alerts import every_item

Connect = Callable[..., TestClient]


def test_members_come_page_by_page(connect: Connect) -> None:
    client = connect()
    members = every_item(client, "/v1/segments/loyal/members", limit=1)
    assert members == [
        {"user_id": user, "since_ms": NOW_MS} for user in sorted(USERS, key=segment_bucket)
    ]
    assert every_item(client, "/v1/segments/unknown/members") == []


def test_cursor_of_a_bucket_that_does_not_exist_is_refused(connect: Connect) -> None:
    for cursor in ("WzY0LCJ4Il0", "Wy0xLCJ4Il0"):  # [64,"x"], [-1,"x"]
        answer = connect().get("/v1/segments/loyal/members", params={"cursor": cursor})
        assert answer.status_code == 400


def test_sizes_and_segments_of_a_user(connect: Connect) -> None:
    client = connect()
    [size] = client.get("/v1/segments/loyal/sizes").json()["items"]
    assert size == {"time_ms": NOW_MS, "members": 3, "users": 3, "overlaps": {"new": 1}}
    [segment] = client.get("/v1/users/42/segments").json()["items"]
    assert (segment["segment"], segment["reason"]) == ("loyal", {"cause": "window"})


def test_cursor_of_one_users_cases_does_not_read_those_of_another(connect: Connect) -> None:
    client = connect()
    cursor = client.get("/v1/cases", params={"limit": 1}).json()["next_cursor"]
    params = {"cursor": cursor, "user_id": "nobody"}
    assert client.get("/v1/cases", params=params).status_code == 400
