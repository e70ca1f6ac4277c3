"""Every table and topic that may hold a user is known to the export."""

from __future__ import annotations

from liveprofile.kafka.topics import topic_configs
from liveprofile.privacy.places import TABLES, TOPICS, TOPICS_WITHOUT_USERS, WITHOUT_USERS
from liveprofile.settings import Settings, TopicSettings
from liveprofile.storage.schema import table_columns

# Columns that identify a user, or a flag and so its user.
IDENTIFYING = {"user_id", "subject", "flag_id", "alert_id", "target", "flags", "alerts"}


def test_every_table_of_the_schema_has_an_entry() -> None:
    assert TABLES.keys() | WITHOUT_USERS.keys() == table_columns().keys()
    assert not TABLES.keys() & WITHOUT_USERS.keys()


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
