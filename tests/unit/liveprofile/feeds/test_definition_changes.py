"""Changes of definitions by several editors: nobody overwrites what they have not seen."""

from __future__ import annotations

import pytest

from liveprofile.feeds import definitions
from liveprofile.feeds.definitions import (
    Applied,
    DefinitionsChangedError,
    TopicDefinitions,
    apply_definitions,
    read_in_force,
    tag_of,
)
from liveprofile.kafka import records, topics
from liveprofile.rules.rules import RULES, Rule
from liveprofile.settings import Settings, load
from tests.support.memory.definition_topic import FakeDefinitionTopic
from tests.support.rows.rule_examples import SHIPPED_RULES, rule

TOPIC = "risk-rules"


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> FakeDefinitionTopic:
    fake = FakeDefinitionTopic(TOPIC, lambda _: TopicDefinitions(RULES))
    monkeypatch.setattr(
        definitions, "read_definition_topic", lambda settings, kind: fake.read(settings)
    )
    monkeypatch.setattr(records, "exclusive_writer", fake.exclusive_writer)
    monkeypatch.setattr(topics, "create_topics", fake.create_topics)
    return fake


@pytest.fixture
def settings() -> Settings:
    return load()


def apply(
    settings: Settings, topic: FakeDefinitionTopic, *rules: Rule, tag: str | None = None
) -> Applied:
    return apply_definitions(settings, RULES, rules, by="anna", expected_tag=tag)


def test_tag_of_an_apply_is_that_of_the_next_read(
    settings: Settings, topic: FakeDefinitionTopic
) -> None:
    found = read_in_force(settings, RULES)
    assert (found.definitions, found.tag) == (SHIPPED_RULES, "file")
    applied = apply(settings, topic, rule(id="b"), rule(id="a"), tag=found.tag)
    assert applied.tag == tag_of(topic.read(settings)) != found.tag
    found = read_in_force(settings, RULES)
    assert (found.source, found.tag) == (f"topic {TOPIC}", applied.tag)
    assert [each.id for each in found.definitions.rules] == ["a", "b"]


def test_second_editor_of_the_same_definitions_is_refused(
    settings: Settings, topic: FakeDefinitionTopic
) -> None:
    tag = apply(settings, topic, rule(id="a")).tag
    apply(settings, topic, rule(id="a"), rule(id="b"), tag=tag)
    with pytest.raises(DefinitionsChangedError, match="read them again"):
        apply(settings, topic, rule(id="c"), tag=tag)
    assert [each.id for each in topic.read(settings).definitions] == ["a", "b"]


def test_repeated_apply_writes_nothing_and_is_not_refused(
    settings: Settings, topic: FakeDefinitionTopic
) -> None:
    tag = apply(settings, topic, rule(id="a")).tag
    first = apply(settings, topic, rule(id="b"), tag=tag)
    written = len(topic.records)
    assert apply(settings, topic, rule(id="b"), tag=tag).tag == first.tag
    assert len(topic.records) == written


def test_apply_that_another_one_overtakes_after_its_last_read_is_refused(
    settings: Settings, topic: FakeDefinitionTopic
) -> None:
    apply(settings, topic, rule(id="a"))

    def overtake_first_read() -> None:
        # The second read of `apply_definitions` is the one that it decides by.
        topic.after_read = lambda: apply(settings, topic, rule(id="other")) and None

    topic.after_read = overtake_first_read
    with pytest.raises(DefinitionsChangedError):
        apply(settings, topic, rule(id="a"), rule(id="b"))
    assert [each.id for each in topic.read(settings).definitions] == ["other"]
