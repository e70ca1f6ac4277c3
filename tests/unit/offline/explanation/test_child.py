"""The process that computes an explanation, without services."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from liveprofile.resources import module_environment

pytestmark = pytest.mark.slow

SETTINGS = """
[kafka]
bootstrap_servers = "127.0.0.1:1"
[cassandra]
port = {port}
"""
COMMAND = [sys.executable, "-m", "offline.explanation.child"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "c.toml").write_text(SETTINGS.format(port=1), "utf-8")
    return tmp_path / "c.toml"


def test_child_works_outside_the_checkout_and_says_what_does_not_answer(config: Path) -> None:
    request = {"config": str(config), "user_id": "42", "until_ms": None}
    with subprocess.Popen(
        COMMAND,
        cwd=config.parent,
        env=module_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
        assert child.wait(60) == 0
    assert "Cassandra at 127.0.0.1:1" in answer["unavailable"]


def test_child_has_the_lowest_priority_and_ends_with_its_server(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the child waits for its answer
        config.write_text(SETTINGS.format(port=silent.getsockname()[1]), "utf-8")
        request = {"config": str(config), "user_id": "42", "until_ms": None}
        with subprocess.Popen(
            COMMAND, env=module_environment(), stdin=subprocess.PIPE, start_new_session=True
        ) as child:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            silent.settimeout(120)
            silent.accept()
            assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
            child.stdin.close()
            assert child.wait(60) == 143
