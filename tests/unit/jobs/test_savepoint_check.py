"""A job refuses a savepoint whose state was computed with other settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.savepoint_check import NAME_PREFIX, STATE_SETTINGS, check_state_settings, operator_name
from liveprofile.config import load
from liveprofile.errors import ConfigError

SAVED = json.loads(operator_name(load()).removeprefix(NAME_PREFIX))
CHANGED = {
    "window.length_ms": 60_000,
    "window.stagger_ms": 5_000,
    "window.history": 4,
    "state.decay_days": 29.5,
    "scoring.enabled": False,
    "scoring.history": 64,
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


def test_equal_settings_and_savepoints_of_earlier_versions_are_accepted() -> None:
    check_state_settings("path", SAVED, load())
    check_state_settings("path", {}, load(window={"history": 4}))


def test_settings_that_do_not_shape_state_may_change() -> None:
    changed = load(job={"parallelism": 5}, state={"user_ttl_ms": 10**9}, limits={})
    check_state_settings("path", SAVED, changed)
