"""A job refuses a savepoint whose state was computed with other settings."""

from typing import Any

import pytest

from jobs.compiled_plan import NodeId
from jobs.savepoint import (
    ARCHIVE_NODE_IDS,
    NODE_IDS,
    STATE_SETTINGS,
    check_nodes,
    check_state_settings,
    is_of_archive,
    operator_name,
    read_state_settings,
)
from liveprofile.errors import ConfigError
from liveprofile.flink.jobs import PIPELINES, Job, Pipeline
from liveprofile.settings import load

SAVED = read_state_settings([operator_name(each, load()) for each in PIPELINES] + ["Calc[3]"])
CHANGED = {
    "window.length_ms": 60_000,
    "window.stagger_ms": 5_000,
    "state.decay_days": 29.5,
}


@pytest.mark.parametrize("name", STATE_SETTINGS["profile"])
def test_changed_setting_is_refused_with_its_name_and_the_way_out(name: str) -> None:
    section, key = name.split(".")
    sections: dict[str, Any] = {section: {key: CHANGED[name]}}
    with pytest.raises(ConfigError) as refused:
        check_state_settings("file:///savepoint", SAVED, Job(None, load(**sections)))
    check_state_settings("file:///savepoint", SAVED, Job("scoring", load(**sections)))
    message = str(refused.value)
    assert f"setting {name} = {CHANGED[name]}" in message and "file:///savepoint" in message
    assert f"Set it to {SAVED['profile'][name]}" in message and "without a savepoint" in message


def test_state_of_another_program_is_refused() -> None:
    with pytest.raises(ConfigError, match="path is no savepoint of this job"):
        check_state_settings("path", {}, Job(None, load()))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_job_of_one_pipeline_starts_from_a_savepoint_of_both(pipeline: Pipeline) -> None:
    check_state_settings("path", SAVED, Job(pipeline, load()))
    [other] = SAVED.keys() - {pipeline}
    with pytest.raises(ConfigError, match=f"path has the state of {other}, not of {pipeline}"):
        check_state_settings("path", {other: SAVED[other]}, Job(None, load()))


def test_other_settings_may_change() -> None:
    changed = load(job={"parallelism": 5}, state={"user_ttl_ms": 10**9}, limits={})
    check_state_settings("path", SAVED, Job(None, changed))


def uids(nodes: tuple[NodeId, ...]) -> list[str]:
    """As Flink writes them; nodes without state have ids above 1,000."""
    return [f"{node.id}_{node.node_type}" for node in nodes] + ["1003_calc", "Committer: 23_sink"]


def test_only_the_sources_of_an_archive_are_left_out() -> None:
    """Labels come from the same topic in both jobs."""
    changed = set(ARCHIVE_NODE_IDS) - set(NODE_IDS)
    assert {node.description for node in changed} == {
        "default_database, source",
        "default_database, scoring_source",
    }
    assert not {node.id for node in changed} & {node.id for node in NODE_IDS}
    assert is_of_archive(uids(ARCHIVE_NODE_IDS))
    assert not is_of_archive([*uids(NODE_IDS), "99_removed", ""])
    check_nodes("path", uids(ARCHIVE_NODE_IDS) + uids(NODE_IDS))


@pytest.mark.parametrize("uid", ["99_removed", "Writer: 99_removed", "", "of no node"])
def test_other_state_without_a_node_is_refused(uid: str) -> None:
    with pytest.raises(ConfigError, match=f"no operators for the state of {uid} in path"):
        check_nodes("path", [*uids(ARCHIVE_NODE_IDS), uid])
