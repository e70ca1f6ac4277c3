"""The compiled plan: shared views run once, each state has its TTL, node ids do not change."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pyflink.table import EnvironmentSettings, StreamTableEnvironment

from jobs import profile_job, savepoint
from jobs.compiled_plan import FIRST_STATELESS_ID, CompiledPlan
from jobs.savepoint import NODE_IDS
from liveprofile.flink.jars import JARS
from liveprofile.flink.jobs import Job, Pipeline
from liveprofile.privacy.places import STATES
from liveprofile.settings import load

PYTHON = "stream-exec-python-calc"
# The positions of a source are about partitions.
WITHOUT_STATE = {
    *("table-source-scan", "sink", "calc", "correlate", "exchange", "union", "python-calc"),
    *("watermark-assigner", "window-table-function"),
}
ENDED_BY_WATERMARK = {"local-window-aggregate", "global-window-aggregate"}


def job_plan(pipeline: Pipeline | None = None, **sections: dict[str, Any]) -> CompiledPlan:
    """The plan of the job as it is submitted."""
    job = Job(pipeline, settings := load(**sections))
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    jars = [jar.resolve().as_uri() for jar in (JARS / "flink").glob("*.jar")]
    t_env.get_config().set("pipeline.jars", ";".join(jars))
    return profile_job.build(
        t_env,
        settings,
        profile_job.kafka_profile_tables(settings) if job.has("profile") else None,
        profile_job.kafka_scoring_tables(settings) if job.has("scoring") else None,
        node_ids=NODE_IDS,
    )


PROFILES_ONLY = {"scoring": {"enabled": False}}
TTLS = {"state": {"dedup_ttl_ms": 7_200_000, "user_ttl_ms": 86_400_000}}


@pytest.fixture(scope="module")
def profile_plan() -> CompiledPlan:
    """The profile pipeline alone."""
    return job_plan(**PROFILES_ONLY, **TTLS)


@pytest.fixture(scope="module")
def full_plan() -> CompiledPlan:
    """Both pipelines."""
    return job_plan(**TTLS)


def node_types(plan: CompiledPlan) -> list[str]:
    return [node["type"].rpartition("_")[0] for node in plan.plan["nodes"]]


def count(plan: CompiledPlan, kind: str) -> int:
    return node_types(plan).count(f"stream-exec-{kind}")


def test_each_pipeline_has_one_python_operator(
    profile_plan: CompiledPlan, full_plan: CompiledPlan
) -> None:
    for plan, operators in ((profile_plan, 1), (full_plan, 2)):
        assert [kind for kind in node_types(plan) if "python" in kind] == [PYTHON] * operators


def test_views_shared_by_sinks_are_computed_once(profile_plan: CompiledPlan) -> None:
    for kind in (
        "table-source-scan",
        "deduplicate",
        "global-window-aggregate",
    ):
        assert count(profile_plan, kind) == 1, kind
    parsers = [node for node in profile_plan.plan["nodes"] if "PARSE_EVENT" in node["description"]]
    assert len(parsers) == 1
    # The clock of a partition, the count of a window, baselines and history.
    assert count(profile_plan, "over-aggregate") == 3


def test_scoring_pipeline_shares_no_operator(
    profile_plan: CompiledPlan, full_plan: CompiledPlan
) -> None:
    more = {
        kind: count(full_plan, kind) - count(profile_plan, kind)
        for kind in ("table-source-scan", "deduplicate", "over-aggregate", "correlate", "sink")
    }
    # Sources: events and labels. OVER: the lists of the user and of five kinds of entities, and the
    # step that brings the rows of a user to one task.
    assert more == {
        "table-source-scan": 2,
        "deduplicate": 0,
        "over-aggregate": 7,
        "correlate": 2,
        "sink": 1,
    }


def test_event_ids_expire_before_users(profile_plan: CompiledPlan, full_plan: CompiledPlan) -> None:
    for plan in (profile_plan, full_plan):
        ttls = [state["ttl"] for node in plan.plan["nodes"] for state in node.get("state") or ()]
        assert ttls == ["7200000 ms"]


def test_all_state_about_users_expires(full_plan: CompiledPlan) -> None:
    """Each node with state has a TTL, or the watermark ends its windows."""
    of_all = full_plan._t_env.get_config().get("table.exec.state.ttl", "0 ms")
    ttls: dict[str, list[str]] = {}
    for node in full_plan.plan["nodes"]:
        kind = node["type"].rpartition("_")[0].removeprefix("stream-exec-")
        if kind not in WITHOUT_STATE | ENDED_BY_WATERMARK:
            own = [state["ttl"] for state in node.get("state") or ()]
            of_node = node.get("configuration", {}).get("table.exec.state.ttl", of_all)
            ttls.setdefault(kind, []).extend(own or [of_node])
    assert ttls.keys() == {"over-aggregate", "deduplicate"}
    keyed = (*ttls, "global-window-aggregate")
    assert sum(count(full_plan, kind) for kind in keyed) == len(STATES)
    assert all(int(ttl.split()[0]) > 0 for of_kind in ttls.values() for ttl in of_kind), ttls


def test_only_window_counts_expire_early(full_plan: CompiledPlan) -> None:
    early = {
        node["description"]: node["configuration"]["table.exec.state.ttl"]
        for node in full_plan.plan["nodes"]
        if "table.exec.state.ttl" in node.get("configuration", {})
    }
    ((description, ttl),) = early.items()
    assert "partitionBy=[user_id, $" in description and ttl == "3930000 ms"


def test_parallelism_1_needs_no_exchange_between_lists(full_plan: CompiledPlan) -> None:
    at_1 = job_plan(**TTLS, job={"parallelism": 1})
    assert count(full_plan, "exchange") - count(at_1, "exchange") == len(savepoint.LISTS)


def ids_with_state(plan: CompiledPlan) -> set[int]:
    return {node["id"] for node in plan.plan["nodes"] if node["id"] < FIRST_STATELESS_ID}


def state_settings(plan: CompiledPlan) -> dict[str, Any]:
    return savepoint.read_state_settings(node["description"] for node in plan.plan["nodes"])


def test_job_that_follows_merges_restores_the_state_of_one_that_does_not() -> None:
    plan = job_plan(merges={"enabled": True})
    assert ids_with_state(plan) == {node.id for node in NODE_IDS}
    calls = [
        node["description"].count("person_id(")
        for node in plan.plan["nodes"]
        if PYTHON in node["type"]
    ]
    assert sorted(calls) == [0, 0, 1, 1]  # once for each event, in both pipelines


def test_ids_of_nodes_with_state_do_not_depend_on_other_nodes() -> None:
    """Staggered windows have further steps, and the scoring pipeline numbers the nodes anew."""
    plan = job_plan("scoring", job={"parallelism": 1})
    assert ids_with_state(plan) == {node.id for node in NODE_IDS if node.id > 20}
    assert state_settings(plan) == {"scoring": {}}
    plan = job_plan("profile", window={"stagger_ms": 60_000})
    assert ids_with_state(plan) == set(range(1, 9))
    assert state_settings(plan)["profile"]["window.stagger_ms"] == 60_000
    with pytest.raises(ValueError, match="local-window-aggregate matches 0 known ids"):
        plan._renumber([node for node in NODE_IDS if "window" not in node.node_type])


def test_attributes_do_not_change_what_the_state_contains(
    profile_plan: CompiledPlan, tmp_path: Path
) -> None:
    def aggregates(plan: CompiledPlan) -> list[Any]:
        nodes = [node for node in plan.plan["nodes"] if node["id"] in (5, 6, 7)]
        assert len(nodes) == 3
        lists = [
            node["aggCalls"] if "aggCalls" in node else node["overSpec"]["groups"][0]["aggCalls"]
            for node in nodes
        ]
        return [
            [(call.get("systemName", call.get("internalName")), call["type"]) for call in calls]
            for calls in lists
        ]

    (file := tmp_path / "attributes.toml").write_text('version = "1"\nattributes = []')
    without = job_plan(**PROFILES_ONLY, **TTLS, attributes=str(file))
    assert aggregates(without) == aggregates(profile_plan)


def test_jobs_share_a_plan_unless_settings_or_code_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plans = tmp_path / "liveprofile" / "plans"
    login = {"security_protocol": "SASL_SSL", "username": "me", "password": "it's secret"}
    first = job_plan(**PROFILES_ONLY, kafka=login)
    (file,) = plans.iterdir()
    planned = file.read_text()
    assert "secret" not in planned and plans.stat().st_mode & 0o777 == 0o700
    other = PROFILES_ONLY | {"topics": {"prefix": "u-"}, "kafka": {"bootstrap_servers": "other:1"}}
    shared = job_plan(**other).plan
    assert list(plans.iterdir()) == [file]
    file.write_text(planned[:-9])  # broken
    assert job_plan(**other).plan == shared != first.plan
    assert json.loads(file.read_text())["nodes"]
    job_plan(**PROFILES_ONLY, limits={"max_payload_chars": 9_999})
    assert len(list(plans.iterdir())) == 2
    source = tmp_path / "changed.py"
    source.write_text("")
    spec = importlib.util.spec_from_file_location("udfs.changed", source)
    monkeypatch.setitem(sys.modules, "udfs.changed", importlib.util.module_from_spec(spec))
    job_plan(**PROFILES_ONLY)
    assert len(list(plans.iterdir())) == 3
