"""A job refuses a savepoint whose state was computed with other settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.compiled_plan import NodeId
from jobs.savepoint import (
    ARCHIVE_NODE_IDS,
    NAME_PREFIX,
    NODE_IDS,
    STATE_SETTINGS,
    check_state_settings,
    is_of_archive,
    operator_name,
)
from liveprofile.errors import ConfigError
from liveprofile.settings import load

SAVED = json.loads(operator_name(load()).removeprefix(NAME_PREFIX))
CHANGED = {
    "window.length_ms": 60_000,
    "window.stagger_ms": 5_000,
    "state.decay_days": 29.5,
    "scoring.enabled": False,
}


@pytest.mark.parametrize("name", STATE_SETTINGS)
def test_changed_setting_is_refused_with_its_name_and_the_way_out(name: str) -> None:
    section, key = name.split(".")
    sections: dict[str, Any] = {section: {key: CHANGED[name]}}
    with pytest.raises(ConfigError) as refused:
        check_state_settings("file:///savepoint", SAVED, load(**sections))
    message = str(refused.value)
    assert f"setting {name} = {CHANGED[name]}" in message and "file:///savepoint" in message
    assert f"Set it to {SAVED[name]}" in message and "without a savepoint" in message


def test_state_of_another_program_is_refused() -> None:
    with pytest.raises(ConfigError, match="path is no savepoint of this job"):
        check_state_settings("path", {}, load())


def test_other_settings_may_change() -> None:
    changed = load(job={"parallelism": 5}, state={"user_ttl_ms": 10**9}, limits={})
    check_state_settings("path", SAVED, changed)


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
    assert is_of_archive("path", uids(ARCHIVE_NODE_IDS))
    assert not is_of_archive("path", uids(NODE_IDS))
    assert not is_of_archive("path", [*uids(NODE_IDS), "99_removed", ""])


@pytest.mark.parametrize("uid", ["99_removed", "Writer: 99_removed", "", "of no node"])
def test_other_state_without_a_node_is_refused(uid: str) -> None:
    with pytest.raises(ConfigError, match=f"no operators for the state of {uid} in path"):
        is_of_archive("path", [*uids(ARCHIVE_NODE_IDS), uid])
