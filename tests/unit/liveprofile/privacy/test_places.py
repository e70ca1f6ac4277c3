"""Every table and topic that may hold a user is known to the export and to the documentation."""

from __future__ import annotations

import re

from liveprofile.kafka.topics import topic_configs
from liveprofile.privacy.places import TABLES, TOPICS, TOPICS_WITHOUT_USERS, WITHOUT_USERS
from liveprofile.settings import Settings, TopicSettings
from liveprofile.storage.schema import table_columns
from tests.support.paths import ROOT

# Columns that identify a user, or a flag and so its user.
IDENTIFYING = {"user_id", "subject", "flag_id", "alert_id", "target", "flags", "alerts"}
PAGE = (ROOT / "docs" / "privacy.md").read_text("utf-8")


def test_no_table_that_identifies_users_is_left_out() -> None:
    columns = table_columns()
    assert not [name for name in WITHOUT_USERS if IDENTIFYING & set(columns[name])]
    assert [name for name in TABLES if not IDENTIFYING & set(columns[name])] == []


def test_every_limit_is_a_setting_or_a_constant() -> None:
    limits = {held.limit for held in (*TABLES.values(), *TOPICS.values())}
    for limit in limits - {"30 days", "the snooze's end"}:
        section, key = limit.split(".")
        assert isinstance(getattr(getattr(Settings(), section), key), int), limit


def test_every_topic_has_an_entry_and_those_with_users_a_retention() -> None:
    topics = TopicSettings()
    names = {name for name, field in TopicSettings.model_fields.items() if field.annotation is str}
    assert TOPICS.keys() | TOPICS_WITHOUT_USERS.keys() == names
    configs = topic_configs(topics)
    assert configs.keys() == {getattr(topics, name) for name in names}
    for setting, held in TOPICS.items():
        config = configs[getattr(topics, setting)]
        assert "delete" in config["cleanup.policy"].split(",")
        limit = getattr(topics, held.limit.removeprefix("topics."))
        assert config["retention.ms"] == str(limit) and limit > 0


def test_privacy_page_has_a_row_with_the_limit_of_every_table_and_topic() -> None:
    rows = {
        name: line
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    }
    for name, held in TABLES.items():
        assert held.limit in rows[name], name
    for setting, held in TOPICS.items():
        assert held.limit in rows[getattr(TopicSettings(), setting)], setting
    without = {getattr(TopicSettings(), setting) for setting in TOPICS_WITHOUT_USERS}
    assert (WITHOUT_USERS.keys() | without) <= rows.keys()


def test_all_state_about_users_expires() -> None:
    page = (ROOT / "docs" / "state-and-failures.md").read_text("utf-8")
    table = page.split("## State in Flink\n")[1].strip().split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    about_users = [row for row in rows if row[3] not in ("partition", "")]
    assert len(about_users) >= 10
    in_memory = "a buffer"  # emptied before each checkpoint
    endless = [
        row[0]
        for row in about_users
        if row[2] != in_memory and (not row[5] or row[5].startswith("never"))
    ]
    assert endless == []
