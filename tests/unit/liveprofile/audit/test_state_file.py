"""The state file of the audit is complete or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from liveprofile.audit.state_file import AuditState, read_state, write_state
from liveprofile.errors import InputError

STATE = AuditState(topic="events", offsets={0: 7, 12: 0})


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    assert read_state(file, "events") is None
    write_state(file, STATE.model_copy(update={"offsets": {}}))
    write_state(file, STATE)
    assert read_state(file, "events") == STATE
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"topic": "events"}', '{"topic": "events", "offsets": {"0": -1}}']
)
def test_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "audit.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"audit\.json"):
        read_state(file, "events")


def test_state_of_another_topic_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    write_state(file, STATE)
    with pytest.raises(InputError, match="of topic events, not others"):
        read_state(file, "others")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/audit\.json: No such file"):
        write_state(tmp_path / "missing" / "audit.json", STATE)
