"""`make demo` opens the console on its data; here on a few rows, without a job."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import urlopen

import pytest

from cli.demo.open_console import CAMPAIGN, open_console
from liveprofile.storage.connection import open_session
from serve.keys import Role, read_keys
from stack.api import ConsoleServer
from stack.local import Stack
from stack.state import StackState
from tests.support.job_under_test import JobUnderTest
from tests.support.rows.stored_windows import store_windows

pytestmark = pytest.mark.services

END_MS = 1_511_654_400_000
USERS = ("anna", "otto")


def test_console_of_the_demo_has_its_data(
    stack: Stack, new_job: Callable[..., JobUnderTest]
) -> None:
    job = new_job("opened", serve={"deadline_ms": 10_000})
    store_windows(job.settings, END_MS, *USERS)
    server = ConsoleServer(stack.root, StackState(stack.root), job.config_file)
    asked: list[str] = []
    try:
        opened = open_console(server, job.settings, END_MS, "anna", asked.append)
        for path, shown in [
            (path, ">anna<" if path.startswith("/alerts") else "") for path, _ in opened.pages
        ] + [(f"/campaigns/{CAMPAIGN}", ">otto</a>")]:
            with urlopen(f"{opened.url}{path}", timeout=60) as page:
                assert shown in page.read().decode(), path
    finally:
        server.stop()
    assert not opened.in_browser  # the output of tests is no terminal
    assert asked == []
    with open_session(job.settings.cassandra) as session:
        [key] = read_keys(session)
    assert (key.role, key.accepts(opened.key.rpartition("_")[2], key.created_at_ms)) == (
        Role.ADMIN,
        True,
    )
