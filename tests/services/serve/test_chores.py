"""`liveprofile serve chores` beside the API: erasures end by themselves, windows close."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from liveprofile.kafka.offsets import partition_ranges
from liveprofile_client import NotFoundError, calls
from services.chores import ChoreStore
from tests.services.serve.conftest import Api
from tests.support.paths import ROOT
from tests.support.rows.stored_windows import store_windows
from tests.support.waiting import until

HEARTBEATS = {"LIVEPROFILE_CHORES__HEARTBEAT_S": "1"}  # none by the settings of a stack


@contextmanager
def chores(api: Api) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "cli", "serve", "chores", "--config", api.job.config_file]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | HEARTBEATS) as run:
        try:
            yield run
        finally:
            run.kill()


def ends(api: Api) -> np.ndarray:
    """(partitions,) ends of the input topic."""
    ranges = partition_ranges(api.settings, api.settings.topics.events)
    return np.array([ranges[number].end for number in sorted(ranges)])


def test_an_erasure_ends_by_itself_though_the_process_that_works_is_killed(api: Api) -> None:
    store_windows(api.settings, 1_511_654_400_000, "leaver")
    with ExitStack() as processes, api.client("paul", "reader", "privacy") as client:
        assert client.send(calls.profile("leaver")).user_id == "leaver"
        first = processes.enter_context(chores(api))
        store = ChoreStore(api.session, api.settings)
        until(lambda: "erasures" in store.runs(), 120, why="no chore has run")
        before = ends(api)
        until(lambda: min(ends(api) - before) >= 2, why="a partition has no heartbeats")
        processes.enter_context(chores(api))
        client.send(calls.put_erasure("leaver"))
        first.kill()
        for read in (calls.profile, calls.deltas, calls.flags):
            with pytest.raises(NotFoundError):
                client.send(read("leaver"))
        rows = "SELECT user_id FROM profile_delta WHERE user_id = 'leaver'"
        until(lambda: not api.session.execute(rows).one(), 60, why="rows are left")
        until(lambda: client.send(calls.erasure("leaver")).done, 60, why="not done")
