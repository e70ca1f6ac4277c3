"""Both pipelines in one job, then in two jobs that go on from its savepoint."""

import itertools
import json
from collections.abc import Callable
from typing import Any

from liveprofile.kafka import offsets
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.compare import compare_with_reference
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import START_MS, card_test, shop_events, to_message
from tests.support.waiting import until

EVENTS, USERS, STEP_MS = 300, 20, 4 * MINUTE_MS  # before each change of the jobs
PART_MS = EVENTS * STEP_MS
WINDOW = {"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS // 2}


def test_jobs_apart(new_job: Callable[..., JobUnderTest]) -> None:
    interval = {"checkpoint_interval_ms": 1_000}
    job = new_job("apart", topics={"partitions": 1}, window=WINDOW, job=interval)
    events = shop_events(5, USERS, STEP_MS)

    def send(part: int) -> None:
        frauds = card_test(f"tester-{part}", START_MS + part * PART_MS)
        part_of_shop = itertools.islice(events, EVENTS - len(frauds))
        job.send(map(to_message, [*frauds, *part_of_shop]))

    def run(*arguments: str, ok: bool = True) -> list[dict[str, Any]]:
        lines = job.cli("job", *arguments, "--json", ok=ok).stdout.splitlines()
        return [json.loads(line) for line in lines]

    job.submit()
    send(0)
    job.wait_until_caught_up()
    [both] = run("stop")
    apart, backend = {"pipelines": "apart"}, {"state_backend": "hashmap"}
    job.config_file = job.other_settings("apart.toml", job=apart, scoring=backend)
    try:
        profile, scoring = run("submit", "--wait", "--savepoint", both["savepoint"])
        name = job.settings.job.name
        assert (profile["name"], scoring["name"]) == (f"{name}-profile", f"{name}-scoring")
        send(1)
        # One job is replaced while the other goes on.
        [stopped] = run("stop", "--pipeline", "profile")
        assert stopped["job_id"] == profile["job_id"]
        send(2)
        offsets.wait_for_scoring(job.settings, 180)
        assert run("status", "--pipeline", "scoring", ok=False)[0]["state"] == "RUNNING"
        run("submit", "--wait", "--savepoint", stopped["savepoint"], "--pipeline", "profile")
        job.send_heartbeats(START_MS + 3 * PART_MS + 3 * HOUR_MS)
        offsets.wait_for_scoring(job.settings, 180)
        until(lambda: offsets.lag(job.settings) == 0, timeout_s=180, poll_s=0.5)

        of_profile, of_scoring = run("status", ok=False)
        assert of_profile["lag_events"] == of_scoring["lag_scoring"] == 0
        assert of_profile["lag_scoring"] is of_scoring["lag_events"] is None
        assert of_profile["restarts"] == of_scoring["restarts"] == 0
        comparison = compare_with_reference(job.settings)
        assert comparison.ok and comparison.job["windows"] > 100, comparison.as_json()
        assert_scoring(job.settings, "tester-", "card_testing")
        assert job.audit()["ok"]
        checked = job.cli("doctor", "--json", ok=False).stdout.splitlines()
        assert [json.loads(line)["skipped"] for line in checked] == [[], []]
        assert len(run("stop")) == 2
    finally:
        job.cli("job", "cancel", "--pipeline", "profile", ok=False)
        job.cli("job", "cancel", "--pipeline", "scoring", ok=False)
