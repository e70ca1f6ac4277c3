"""`liveprofile identity link-logins` with a real broker: kills, a replay and a second process write
each merge once."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from liveprofile.identity.merges import read_record
from liveprofile.kafka.offsets import commit_offsets, committed_progress, lag, login_group
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.settings import Settings
from liveprofile.wire.user_records import WHOLE_KEY
from monitoring.sources import read_kafka
from services.logins import read_counts
from tests.support.job_under_test import JobUnderTest
from tests.support.waiting import until

ACCOUNTS, IDS_OF_ACCOUNT, OTHER_EVENTS = 50, 4, 2_000
TAKEN = range(0, ACCOUNTS * IDS_OF_ACCOUNT, 5)  # ids with which a second account logs in later
FENCED = 3  # exit code
TIMEOUT_S = 180.0


def anonymous_id(number: int) -> str:
    return str(UUID(int=number))


def event(number: int, user_id: str, **fields: Any) -> tuple[bytes, bytes, dict[str, str]]:
    now_ms = round(time.time() * 1_000)
    times = {"event_time": now_ms, "event_type": "login"}
    value = {"event_id": f"e{number}", "user_id": user_id} | times | fields
    return user_id.encode(), json.dumps(value).encode(), {}


def account(number: int) -> str:
    return f"account-{number % ACCOUNTS}"


class Logins(NamedTuple):
    job: JobUnderTest

    @property
    def settings(self) -> Settings:
        return self.job.settings

    def send(self, numbers: range, shift: int = 0) -> None:
        """A login of each anonymous id, among other events, to its account or the `shift`-th next.

        The broker has them all before this returns.
        """
        others = [event(number, account(number)) for number in range(OTHER_EVENTS)]
        logins = [
            event(number, account(number + shift), anonymous_id=anonymous_id(number))
            for number in numbers
        ]
        send_all(self.settings, self.settings.topics.events, [*others, *logins, *others])
        time.sleep(0.005)  # a later login has a later timestamp

    def merges(self) -> list[Record]:
        records = read_topic(self.settings, self.settings.topics.merges)
        return [each for each in records if each.key != WHOLE_KEY]

    def behind(self) -> int:
        group = login_group(self.settings.kafka)
        return lag(self.settings, group, self.settings.topics.events)


@pytest.fixture(scope="module")
def logins(new_job: Callable[..., JobUnderTest]) -> Logins:
    sections = {"topics": {"partitions": 3}, "merges": {"enabled": True}}
    job = new_job("identify", tables=False, **sections)
    return Logins(job)


def test_each_login_is_merged_once_despite_kills_a_replay_and_a_second_process(
    logins: Logins,
) -> None:
    settings, group = logins.settings, login_group(logins.settings.kafka)
    command = ("identity", "link-logins", "--json")
    half = ACCOUNTS * IDS_OF_ACCOUNT // 2
    logins.send(range(half))
    logins.send(TAKEN, shift=1)
    for wait_s in (0.0, 0.3):  # killed at its first merges, then while it reads on
        with logins.job.start(*command) as killed:
            until(logins.merges, TIMEOUT_S, poll_s=0.01)
            time.sleep(wait_s)
            killed.kill()

    # A replay: everything is read again.
    commit_offsets(settings, settings.topics.events, group, dict.fromkeys(range(3), 0))
    first, second = logins.job.start(*command), logins.job.start(*command)
    try:
        logins.send(range(half, 2 * half))
        [ended] = until(
            lambda: [each for each in (first, second) if each.poll() is not None], TIMEOUT_S
        )
        survivor = second if ended is first else first
        assert ended.returncode == FENCED
        assert "another process has opened the transactional id" in ended.stderr.read()
        until(lambda: not logins.behind(), TIMEOUT_S)
        survivor.terminate()
        printed, log = survivor.communicate(timeout=TIMEOUT_S)
        assert survivor.returncode == 0, log
        assert json.loads(printed).get("merged", 0) <= 2 * half
    finally:
        for process in (first, second):
            process.kill()
            process.wait()

    written = [read_record(record.key, record.value) for record in logins.merges()]
    assert Counter(alias for alias, _ in written) == {
        anonymous_id(number): 1 for number in range(2 * half)
    }
    targets = {alias: [merge.user_id for merge in merges] for alias, merges in written}
    expected = {anonymous_id(number): [account(number)] for number in range(half)}
    assert {alias: targets[alias] for alias in expected} == expected
    # Of the second half, some ids were sent with another account before.
    for number in range(half, 2 * half):
        assert targets[anonymous_id(number)] == [account(number + (number in TAKEN))]
    assert all(merge.until_ms is None for _, merges in written for merge in merges)

    counts = sum(read_counts(_progress(logins)).values(), Counter())
    assert counts["conflict"] >= len(TAKEN) and counts["merged"] > 0
    exported = {
        tuple(sample.labels.values()): sample.value
        for family in read_kafka(settings, []).families()
        for sample in family.samples
        if sample.name in ("liveprofile_logins_total", "liveprofile_lag_records")
    }
    assert exported[("conflict",)] == counts["conflict"] and exported[("logins",)] == 0


def _progress(logins: Logins) -> Any:
    settings = logins.settings
    return committed_progress(settings, settings.topics.events, login_group(settings.kafka))
