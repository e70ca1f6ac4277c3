"""Profiles, segments and trends over HTTP."""

import asyncio
import threading
from contextlib import nullcontext
from urllib.parse import quote

import numpy as np
import orjson
import pytest

from liveprofile.settings import load
from liveprofile.units import DAY_MS, HOUR_MS
from serve.keys import ANALYST
from serve.problems import UnavailableError
from serve.store.scans import ScanLimit, Scans, ScanTooLargeError
from services.alerts.flags import list_flags
from services.privacy.erasure_log import REQUESTED, ErasureRun, write_runs
from services.segments import members
from services.trends.count_store import Series
from tests.support.event_loop import on_loop
from tests.support.memory.api import MINUTE_MS, NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS, WINDOW_MS, alert_case, raw_profile
from tests.support.rows.statements import stated
from tests.support.rows.value_curves import curve_document
from tests.unit.serve.conftest import Clock, Connect, every_item, kind_of


@pytest.mark.parametrize("user_id", USERS)
def test_profile_of_an_id_with_any_characters(connect: Connect, user_id: str) -> None:
    answer = connect().get(f"/v1/users/{quote(user_id, safe='')}")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["user_id"], body["churn"], body["segments"]) == (user_id, 0.25, ["loyal", "new"])
    assert body["profile"]["next_items"] == ["b", "a", "c"]
    assert "embedding" not in body
    with_embedding = connect().get(f"/v1/users/{quote(user_id, safe='')}?embedding=true").json()
    assert with_embedding["embedding"] == [1.0, 0.0]


def test_unchanged_profile_is_answered_with_304(connect: Connect) -> None:
    client = connect()
    tag = client.get("/v1/users/42").headers["etag"]
    again = client.get("/v1/users/42", headers={"If-None-Match": f'"x", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/v1/users/42", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize(
    "encoded",
    [
        *(quote(user, safe="") for user in USERS),
        "nobody",
        "%00",
        "%FF",
        "a:b",
        "x" * 257,
        "x" * 4_000,
    ],
    ids=lambda text: text[:12],
)
def test_read_without_a_query_is_answered_as_the_documented_route_does(
    connect: Connect, method: str, encoded: str
) -> None:
    client = connect()
    answered = [
        client.request(method, f"/v1/users/{encoded}", headers=headers, params=params)
        for headers in ({}, {"Authorization": "Bearer x"}, {"If-None-Match": "*"})
        for params in ({}, {"embedding": "false"})
    ]
    for plain, routed in zip(answered[::2], answered[1::2], strict=True):
        bodies = []
        for answer in (plain, routed):
            request_id = answer.headers.pop("x-request-id").encode()
            bodies.append(answer.content.replace(request_id, b""))
        assert (plain.status_code, plain.headers) == (routed.status_code, routed.headers)
        assert bodies[0] == bodies[1]


def test_at_answers_with_the_last_window_before_then(connect: Connect) -> None:
    client = connect()
    exact = client.get("/v1/users/42", params={"at": "2017-11-26T00:55:00"}).json()
    assert (exact["window_end_ms"], exact["churn"]) == (NOW_MS - 2 * WINDOW_MS, 0.2)
    between = client.get("/v1/users/42", params={"at": "2017-11-26T01:04:00Z"}).json()
    assert (between["window_end_ms"], between["churn"]) == (NOW_MS - WINDOW_MS, 0.1)
    assert between["at_ms"] == NOW_MS - MINUTE_MS
    too_early = client.get("/v1/users/42", params={"at": "2017-11-20"})
    assert too_early.status_code == 404
    assert too_early.json()["type"].endswith("unknown-past")


def test_batch_keeps_the_order_and_names_unknown_users(connect: Connect) -> None:
    ids = ["Zoë/ü", "nobody", "42", "42"]
    body = connect().post("/v1/users:batchGet", json={"user_ids": ids}).json()
    assert [profile["user_id"] for profile in body["profiles"]] == ["Zoë/ü", "42"]
    assert body["unknown"] == ["nobody"]


def test_next_items_interests_and_similar_users(connect: Connect) -> None:
    client = connect()
    items = client.get("/v1/users/42/next-items", params={"limit": 2}).json()
    assert items["next_items"] == ["b", "a"]
    assert client.get("/v1/users/42/interests").json()["interests"] == {"café": 0.5, "tea": 0.25}
    similar = client.get("/v1/users/42/similar", params={"k": 1, "segment": "loyal"}).json()
    assert [user["user_id"] for user in similar["similar"]] == ["Zoë/ü"]
    unknown = client.get("/v1/users/nobody/similar")
    assert (unknown.status_code, kind_of(unknown)) == (404, "unknown-user")


SPAN = {"within_ms": 60_000, "tile_ms": 3_000}
CARTS = {
    "carts": SPAN | {"aggregate": "count", "tiles": [[NOW_MS - 9_000, 2, 2], [NOW_MS, 1, 1]]},
    "price": SPAN | {"aggregate": "mean", "tiles": [[NOW_MS - 9_000, 2, 10]]},
}


def test_attributes_have_their_source_and_end_with_their_expiry(
    connect: Connect, api: MemoryApi, clock: Clock
) -> None:
    api.put(stated("42", NOW_MS, days=0.001, purpose="risk", vip=True, household_size="2"))
    profile = orjson.dumps({"attribute_tiles": CARTS}).decode()
    api.put(raw_profile("42", NOW_MS)._replace(profile=profile))
    client = connect()
    assert client.get("/v1/users/42/attributes").json()["computed"] == {"carts": 3, "price": 5}
    first, second = client.get("/v1/users/42/attributes").json()["items"]
    assert (first["name"], first["value"]) == ("household_size", "2")
    assert second == {
        "name": "vip",
        "value": True,
        "source": "crm",
        "kind": "declared",
        "purpose": "risk",
        "time_ms": NOW_MS,
        "expires_ms": NOW_MS + 86_400,
    }
    clock.s = 86.4
    assert client.get("/v1/users/42/attributes").json() == {
        "items": [],
        "computed": {"carts": 0, "price": None},
    }
    empty = {"items": [], "computed": {}}
    assert client.get("/v1/users/nobody/attributes").json() == empty


def test_profile_with_a_curve_has_the_values_of_the_last_full_hour(
    connect: Connect, api: MemoryApi
) -> None:
    full_hour_ms = NOW_MS - NOW_MS % HOUR_MS
    row = raw_profile("42", full_hour_ms - DAY_MS)
    document = orjson.loads(row.profile) | curve_document()
    row = row._replace(profile=orjson.dumps(document).decode())
    api.put(row)
    client = connect()
    found = client.get("/v1/users/42").json()
    assert (found["churn"], found["expected_spend"]) == (0.2, 25.0)
    assert found["values_at_ms"] == full_hour_ms
    assert found["profile"]["features"]["churn"] == 0.25
    batch = client.post("/v1/users:batchGet", json={"user_ids": ["42"]}).json()
    assert batch["profiles"] == [found]
    api.put(row._replace(window_end_ms=full_hour_ms - 7 * DAY_MS))
    assert client.get("/v1/users/42").json()["churn"] == 0.8


def test_sizes_and_segments_of_a_user(connect: Connect) -> None:
    client = connect()
    [size] = client.get("/v1/segments/loyal/sizes").json()["items"]
    assert size == {"time_ms": NOW_MS, "members": 3, "users": 3}
    [segment] = client.get("/v1/users/42/segments").json()["items"]
    assert (segment["segment"], segment["reason"]) == ("loyal", {"cause": "window"})


def test_cursor_of_one_users_cases_does_not_read_those_of_another(connect: Connect) -> None:
    client = connect()
    cursor = client.get("/v1/cases", params={"limit": 1}).json()["next_cursor"]
    params = {"cursor": cursor, "user_id": "nobody"}
    assert client.get("/v1/cases", params=params).status_code == 400


ALL = Series("all", "", "all")


def test_forecast_has_the_hours_of_the_next_day(connect: Connect, api: MemoryApi) -> None:
    hours = np.random.default_rng(1).poisson(5.0, 90 * 24)
    first_ms = NOW_MS // DAY_MS * DAY_MS - 90 * DAY_MS
    api.put_counts(ALL, "hour", {first_ms + n * HOUR_MS: (v, 1.0) for n, v in enumerate(hours)})
    client = connect()
    forecast = client.get("/v1/trends/forecast").json()
    assert forecast["day_ms"] == NOW_MS // DAY_MS * DAY_MS
    assert len(forecast["hours"]) == len(forecast["low"]) == 24
    assert all(low <= value for low, value in zip(forecast["low"], forecast["hours"], strict=True))
    assert forecast["total_low"] < forecast["total"] < forecast["total_high"]
    few = client.get("/v1/trends/forecast", params={"event_type": "login"})
    assert (few.status_code, kind_of(few)) == (404, "too-short")


def test_last_points_of_a_series(connect: Connect, api: MemoryApi) -> None:
    client = connect()
    uncounted = client.get("/v1/trends")
    assert (uncounted.status_code, kind_of(uncounted)) == (404, "not-counted")
    assert kind_of(client.get("/v1/trends/forecast")) == "not-counted"
    last_ms = NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS
    steady = {last_ms - n * HOUR_MS: (5, 1.0) for n in range(1, 24 * 7 * 17)}
    api.put_counts(ALL, "hour", steady | {last_ms: (90, 1.0)})
    trend = client.get("/v1/trends", params={"count": 1}).json()
    [point] = trend["points"]
    assert (trend["complete_until_ms"], point["start_ms"]) == (NOW_MS, last_ms)
    assert (point["value"], point["outside"]) == (90.0, True)
    assert point["low"] <= 5.0 <= point["high"]


def test_scan_ends_at_its_limit_of_rows_and_time() -> None:
    now_s = [0.0]
    limit = ScanLimit(3, 10.0, lambda: now_s[0])
    assert list(limit.watch([1, 2])) == [1, 2]
    now_s[0] = 11.0
    with pytest.raises(ScanTooLargeError, match="not done within 10 s"):
        list(limit.watch([3]))
    with pytest.raises(ScanTooLargeError, match="more than 3 rows"):
        list(limit.watch([9], int))
    limit = ScanLimit(3, 10.0, lambda: 0.0)
    limit.stopped = True
    with pytest.raises(ScanTooLargeError):
        list(limit.watch([1]))


@on_loop
async def test_second_scan_at_once_is_refused_and_does_not_wait() -> None:
    scans = Scans(load(), lambda _: nullcontext(None))
    release = threading.Event()
    first = asyncio.create_task(scans.run(lambda session, limit: release.wait(60)))
    await asyncio.sleep(0.05)
    with pytest.raises(UnavailableError):
        await scans.run(lambda session, limit: None)
    release.set()
    assert await first
    assert await scans.run(lambda session, limit: "next") == "next"
    scans.stop()


def test_a_user_whose_erasure_is_accepted_is_unknown_at_once(
    api: MemoryApi, connect: Connect
) -> None:
    parts = ("", "?embedding=true", "/deltas", "/flags", "/scores", "/segments", "/similar")
    client = connect()
    paths = [f"/v1/users/42{part}" for part in (*parts, "/attributes", "/interests", "/snoozes")]
    assert {client.get(path).status_code for path in paths} == {200}

    def erase(before_ms: int, remaining: dict[str, int]) -> list[int]:
        write_runs(api.session, {"42": ErasureRun(before_ms, NOW_MS, remaining)}, 60)
        return [client.get(path).status_code for path in paths]

    assert erase(NOW_MS + 1, REQUESTED) == [404] * len(paths)
    batch = client.post("/v1/users:batchGet", json={"user_ids": ["42", USERS[1]]}).json()
    assert (batch["unknown"], len(batch["profiles"])) == (["42"], 1)
    # The newest window began after the erasure, the others did not.
    assert set(erase(NOW_MS - WINDOW_MS, REQUESTED)) == {200}
    assert len(every_item(client, "/v1/users/42/deltas")) == 1
    # Nothing is left but the hours in which the user had events.
    assert set(erase(NOW_MS + 1, {"risk_score_hours": 1})) == {200}


@pytest.mark.parametrize("limit", [1, 200])
def test_nothing_shows_a_user_whose_erasure_is_accepted(
    api: MemoryApi, connect: Connect, limit: int
) -> None:
    client, other, flag = connect(ANALYST), USERS[1], f"{0:032x}"
    api.put(alert_case(1, other))

    def shown() -> list[set[str]]:
        lists = ("/v1/alerts", "/v1/cases", "/v1/segments/loyal/members")
        found = [every_item(client, path, limit=limit) for path in lists]
        similar = client.get(f"/v1/users/{quote(other, safe='')}/similar").json()["similar"]
        return [{each["user_id"] for each in rows} for rows in (*found, similar)]

    paths = (f"/v1/alerts/{flag}", "/v1/users/42/snoozes")
    assert all("42" in users for users in shown())
    assert [client.get(path).status_code for path in paths] == [200, 200]
    write_runs(api.session, {"42": ErasureRun(NOW_MS + 1, NOW_MS, REQUESTED)}, 60)
    assert not any("42" in users for users in shown()) and all(shown()[:3])
    assert [client.get(path).status_code for path in paths] == [404, 404]
    label = client.put(f"/v1/alerts/{flag}/label", json={"label": "fraud"})
    snooze = client.put("/v1/users/42/snoozes/*", json={"for_s": 60})
    assert (label.status_code, snooze.status_code) == (404, 422)
    assert {each.flag.user_id for each in list_flags(api.session, limit=100)} == {other}
    assert "42" not in {each.user_id for each in members(api.session, "loyal")}
