"""What the planner makes of the path: each step once, one Python operator, each state's TTL."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs import profile_job, tables
from jobs.plan import Plan
from liveprofile.config import load
from tests.pipeline import harness, stores
from udfs.operator import profile_operator

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    settings = load(state={"dedup_ttl_ms": 7_200_000, "user_ttl_ms": 86_400_000})
    folder: Path = tmp_path_factory.mktemp("plan")
    return profile_job.build(
        TableEnvironment.create(EnvironmentSettings.in_streaming_mode()),
        settings,
        source=harness.source_table(folder / "events.json", settings),
        sink=tables.file_sink("sink", folder / "sent", harness.SINK),
        update_profile=profile_operator(settings, stores.open_shared),
    )


def test_one_python_operator(plan: Plan) -> None:
    assert [kind for kind in plan.node_types() if "python" in kind] == ["stream-exec-python-calc"]


def test_what_the_sinks_share_is_computed_once(plan: Plan) -> None:
    for kind in ("table-source-scan", "deduplicate", "global-window-aggregate", "correlate"):
        assert plan.node_types().count(f"stream-exec-{kind}") == 1, kind
    assert plan.node_types().count("stream-exec-over-aggregate") == 2


def test_event_ids_are_forgotten_before_users(plan: Plan) -> None:
    assert plan.state_ttl() == {"stream-exec-deduplicate": "7200000 ms"}
