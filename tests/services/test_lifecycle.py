"""Setup, upgrade with its fallback, stop and cancel, on a job that reads events meanwhile."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from liveprofile.config import load
from liveprofile.flink import rest
from liveprofile.units import HOUR_MS
from stack.local import to_toml
from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, shop_events

pytestmark = pytest.mark.services

EVENTS = 300


def messages(seed: int, start_ms: int) -> list[Message]:
    events = itertools.islice(shop_events(seed, 20, 60_000, start_ms), EVENTS)
    return [Message(each["user_id"].encode(), json.dumps(each).encode()) for each in events]


@pytest.fixture(scope="module")
def job(new_job) -> JobUnderTest:
    window = {"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS}
    return new_job("lifecycle", window=window, scoring={"enabled": False})


def other_settings(job: JobUnderTest, name: str, **sections: dict[str, object]) -> Path:
    """A settings file like the job's, with other values."""
    content = {
        section: values | sections.get(section, {})
        for section, values in load(job.config_file)
        .model_dump(mode="json", exclude_unset=True)
        .items()
    }
    file = job.config_file.with_name(name)
    file.write_text(to_toml(content | {k: v for k, v in sections.items() if k not in content}))
    return file


def test_setup_creates_nothing_that_exists(job: JobUnderTest) -> None:
    assert job.run("setup") == {"topics_created": [], "keyspace": job.settings.cassandra.keyspace}


def test_job_survives_upgrades_stop_and_restart_without_losing_an_event(job: JobUnderTest) -> None:
    first = job.submit()
    job.send(messages(1, START_MS))
    job.wait_until_committed()

    # The savepoint does not fit these windows, so the job refuses to start.
    other_windows = other_settings(job, "other.toml", window={"length_ms": 2 * HOUR_MS})
    done = run_cli(
        "upgrade", "--config", other_windows, "--fallback", job.config_file, "--json", ok=False
    )
    failed = json.loads(done.stdout)
    assert done.returncode == 1 and "window.length_ms" in failed["failure"], done.stderr
    assert job.run("status")["job_id"] == failed["job_id"] != first
    assert rest.job_state(job.rest_url, first) == "FINISHED"

    job.send(messages(2, START_MS + 6 * HOUR_MS))
    faster = other_settings(job, "faster.toml", job={"checkpoint_interval_ms": 2_000})
    done = run_cli("upgrade", "--config", faster, "--json")
    upgraded = json.loads(done.stdout)
    assert upgraded["failure"] is None
    assert rest.job_state(job.rest_url, failed["job_id"]) == "FINISHED"

    stopped = job.run("stop")
    assert stopped["job_id"] == upgraded["job_id"]
    done = run_cli("stop", "--config", job.config_file, ok=False)
    assert done.returncode == 1 and "no job named" in done.stderr

    job.submit("--savepoint", stopped["savepoint"])
    job.send_heartbeats(START_MS + 100 * HOUR_MS)
    job.wait_until_committed()
    report = job.audit()
    assert report["ok"] and report["used"] == 2 * EVENTS, report

    cancelled = job.run("cancel")
    assert cancelled["job_id"] == job.id and cancelled["checkpoint"].startswith("file:")
    assert job.state() == "CANCELED"
