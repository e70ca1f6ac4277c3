"""The life of one job under load: other models, a dead replica, upgrades, parallelism 1, stop.

Cassandra is a ring of three nodes; each has a copy of all rows, two must acknowledge a write.
Must hold at the end: no event is lost or used twice, all output is as the reference's.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from liveprofile.flink import rest
from models.profile import deployment
from models.profile.deployment import FIRST_REVISION, in_canary, read_user_models, write_user_models
from models.profile.model_card import WEIGHTS, ModelCard
from tests.faults.loaded_job import (
    LATE_BY_MS,
    RECOVERY_TIMEOUT_S,
    STEP_MS,
    USERS,
    WINDOW,
    LoadedJob,
    open_loaded_job,
)
from tests.support.api_server import api_server
from tests.support.job_under_test import BUSY_JOB, JobUnderTest, run_cli
from tests.support.model_folders import SHIPPED, copy_model
from tests.support.more_services import RingNode, cassandra_ring
from tests.support.prometheus import fires
from tests.support.streams.shop import HOT_USER, REGULAR_USER, shop_events, to_message
from tests.support.waiting import until

LATE_EVENTS = 40


class Life(NamedTuple):
    loaded_job: LoadedJob
    nodes: list[RingNode]


@pytest.fixture(scope="module")
def life(
    new_job: Callable[..., JobUnderTest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Life]:
    with cassandra_ring(tmp_path_factory.mktemp("ring")) as nodes:
        replicated = {
            "contact_points": [node.host for node in nodes],
            "port": nodes[0].port,
            "replication": len(nodes),
            "consistency": "LOCAL_QUORUM",
        }
        job = new_job("life", job=BUSY_JOB, window=WINDOW, cassandra=replicated)
        job.submit()
        with open_loaded_job(job) as loaded_job:
            yield Life(loaded_job, nodes)


# --- the model changes without a restart ----------------------------------------------------------

# Of these 12 users, it gives the canary to five.
CANARY_PERCENT = 50
MODEL_USERS = (HOT_USER, REGULAR_USER, *(f"user-{number}" for number in range(USERS)))


def revisions_by_version(loaded_job: LoadedJob, since_ms: int) -> dict[str, dict[str, set[int]]]:
    """user -> version -> revisions in the write times of windows that end after `since_ms`.

    Both tables are read: the write time of a row contains the revision of its model.
    """
    found: dict[str, dict[str, set[int]]] = {}
    for table in ("user_profile", "profile_delta"):
        for row in loaded_job.session.execute(
            "SELECT user_id, model_version, to_unix_timestamp(window_end) AS end_ms,"
            f" WRITETIME(model_version) AS us FROM {table}",
            timeout=60,
        ):
            if row.end_ms > since_ms and row.user_id in MODEL_USERS:
                of_user = found.setdefault(row.user_id, {})
                of_user.setdefault(row.model_version, set()).add(row.us - row.end_ms * 1_000)
    return found


def wait_for_model(
    loaded_job: LoadedJob, version: str, revision: int, canary: str | None = None
) -> None:
    """Returns when the windows that close from now on have the expected version for each user."""
    served = {"lowest_revision": revision, "highest_revision": revision}
    # None while Flink has no metrics.
    until(
        lambda: served.items() <= (status(loaded_job)["models"] or {}).items(),
        RECOVERY_TIMEOUT_S,
        1.0,
    )
    since_ms = loaded_job.clock_ms + WINDOW["length_ms"]
    expected = {
        user: {canary if canary and in_canary(user, canary, CANARY_PERCENT) else version}
        for user in MODEL_USERS
    }
    until(
        lambda: len(revisions_by_version(loaded_job, since_ms)) >= len(MODEL_USERS) - 1,
        RECOVERY_TIMEOUT_S,
        0.5,
    )
    for user, of_user in revisions_by_version(loaded_job, since_ms).items():
        assert of_user == {each: {revision} for each in expected[user]}, user


def status(loaded_job: LoadedJob) -> dict[str, Any]:
    return loaded_job.job.run("job", "status", ok=False)


def apply_and_damage(job: JobUnderTest, folder: Path) -> None:
    """Does what `model apply` does, but a file changes before the workers read it."""
    reference = deployment.reference_to(str(folder))
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    models = deployment.apply(read_user_models(job.settings), reference, None, "test")
    write_user_models(job.settings, models)


def test_model_changes_under_load_without_a_restart(life: Life, tmp_path: Path) -> None:
    """Canary, all users, a refused model, and two rollbacks."""
    loaded_job, _ = life
    job, shipped = loaded_job.job, ModelCard.read(SHIPPED)
    second, first = str(copy_model(tmp_path, "second")), FIRST_REVISION
    loaded_job.copies.append("second")
    loaded_job.load()
    canary = ("--canary", str(CANARY_PERCENT), "--by", "anna")
    applied = job.run("model", "apply", second, *canary)
    assert (applied["revision"], applied["canary_percent"]) == (first, CANARY_PERCENT)
    wait_for_model(loaded_job, shipped.version, first, "second")

    job.run("model", "apply", second)
    wait_for_model(loaded_job, "second", first + 1)
    apply_and_damage(job, copy_model(tmp_path, "damaged"))
    until(lambda: status(loaded_job)["models"]["refused"] == 1, RECOVERY_TIMEOUT_S, 1.0)
    wait_for_model(loaded_job, "second", first + 1)

    job.run("model", "rollback")
    job.run("model", "rollback")
    wait_for_model(loaded_job, shipped.version, first + 4)
    assert status(loaded_job)["models"]["refused"] == 0
    assert job.restarts() == 0
    listed = job.run("model", "list")["deployments"]
    assert [one["revision"] - first for one in listed] == [4, 3, 2, 1, 0]
    assert listed[-1]["applied_by"] == "anna"


# --- faults and upgrades --------------------------------------------------------------------------


def upgrade(config: Path, *options: str | Path, code: int = 0) -> dict[str, Any]:
    done = run_cli("job", "upgrade", "--config", config, *options, "--json", ok=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_killed_replica_causes_no_restart(life: Life, tmp_path: Path) -> None:
    loaded_job, nodes = life
    restarts = loaded_job.job.restarts()
    hosts = {host.address for host in loaded_job.session.cluster.metadata.all_hosts()}
    assert hosts == {node.host for node in nodes}
    loaded_job.load()
    with (
        api_server(loaded_job.job.config_file, "metrics") as exporter,
        fires("LiveprofileCassandraNodeDown", exporter, tmp_path),
        loaded_job.recovery("one of three Cassandra nodes killed"),
    ):
        nodes[1].kill()
    nodes[1].start()
    assert loaded_job.job.restarts() == restarts


def test_failed_upgrade_falls_back_and_the_next_one_succeeds(life: Life) -> None:
    """The settings in force afterwards keep state with a changelog."""
    loaded_job, _ = life
    job, first = loaded_job.job, loaded_job.job.id
    assert str(first) in job.cli("job", "status", ok=False).stdout
    loaded_job.load()
    changelog = job.other_settings("changelog.toml", job={"changelog": True})
    # A job with a changelog refuses the savepoint of another parallelism.
    refused = job.other_settings("other.toml", job={"changelog": True, "parallelism": 3})
    failed = upgrade(refused, "--fallback", changelog, code=1)
    assert "has parallelism 2, the job 3; start at parallelism 2" in failed["failure"]
    assert job.run("job", "status", ok=False)["job_id"] == failed["job_id"] != first
    assert rest.job_state(job.rest_url, first) == "FINISHED"
    # From a savepoint with the changelog: in claim mode NO_CLAIM Flink would refuse its first one.
    upgraded = upgrade(changelog)
    assert upgraded["failure"] is None
    assert rest.job_state(job.rest_url, failed["job_id"]) == "FINISHED"
    job.id = upgraded["job_id"]
    configured = rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints/config")
    assert configured["state_changelog_enabled"]


def test_job_with_changelog_recovers_when_its_python_worker_is_killed(life: Life) -> None:
    loaded_job, _ = life
    loaded_job.load()
    with loaded_job.recovery("Python worker killed, state with a changelog"):
        loaded_job.kill_worker()


def test_job_resumes_at_parallelism_1_with_late_events_first(life: Life) -> None:
    """There Flink chains the last operator of the scoring pipeline; its state must stay its own.

    tests/services/operations/test_handover.py has a job with more tasks than its savepoint's.
    """
    loaded_job, _ = life
    job = loaded_job.job
    loaded_job.load()
    loaded_job.stop_load()
    with loaded_job.recovery("stopped with a savepoint, resumed at parallelism 1"):
        stopped = job.run("job", "stop")
        assert stopped["job_id"] == job.id
        again = job.cli("job", "stop", ok=False)
        assert again.returncode == 1 and "no job named" in again.stderr
        earlier_ms = loaded_job.clock_ms - LATE_BY_MS
        job.send(
            to_message(event | {"event_id": f"late-after-savepoint-{event['event_id']}"})
            for event in itertools.islice(shop_events(99, USERS, STEP_MS, earlier_ms), LATE_EVENTS)
        )
        job.submit("--savepoint", stopped["savepoint"], "--parallelism", "1")
        loaded_job.load()
    loaded_job.close_windows()


def test_savepoint_leaves_the_job_running_and_cancel_ends_it(life: Life) -> None:
    job = life.loaded_job.job
    taken = job.run("job", "savepoint")
    assert taken["job_id"] == job.id and taken["savepoint"].startswith("file:")
    assert job.state() == "RUNNING"
    job.wait_for_checkpoint(RECOVERY_TIMEOUT_S)
    cancelled = job.run("job", "cancel")
    assert cancelled["job_id"] == job.id and cancelled["checkpoint"].startswith("file:")
    assert job.state() == "CANCELED"


def test_output_of_the_whole_life_equals_reference(life: Life) -> None:
    life.loaded_job.compare()
