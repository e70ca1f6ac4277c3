"""Changes of definitions by several editors: nobody overwrites what they have not seen."""

from itertools import count
from typing import Any

import pytest

from liveprofile.feeds import definition_topics as definitions
from liveprofile.feeds.definition_topics import (
    Applied,
    DefinitionsChangedError,
    TopicDefinitions,
    apply_definitions,
)
from liveprofile.kafka.records import Record
from liveprofile.rules.rules import RULES, Rule
from liveprofile.settings import Settings, load
from tests.support.memory.kafka import MemoryKafka
from tests.support.rows.rule_examples import rule

TOPIC = "risk-rules"


@pytest.fixture(autouse=True)
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    kafka = MemoryKafka()
    kafka.install(monkeypatch)
    return kafka.records[TOPIC]


@pytest.fixture
def settings() -> Settings:
    return load()


def apply(settings: Settings, *rules: Rule, tag: str | None = None) -> Applied:
    return apply_definitions(settings, RULES, rules, by="anna", expected_tag=tag)


def ids_in_topic(settings: Settings) -> list[str]:
    found = definitions.read_definition_topic(settings, RULES)
    return [each.id for each in found.definitions]


def test_repeated_apply_writes_nothing_and_is_not_refused(
    settings: Settings, topic: list[Record]
) -> None:
    tag = apply(settings, rule(id="a")).tag
    first = apply(settings, rule(id="b"), tag=tag)
    written = len(topic)
    assert apply(settings, rule(id="b"), tag=tag).tag == first.tag
    assert len(topic) == written


def test_apply_that_another_one_overtakes_after_its_last_read_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(settings, rule(id="a"))

    read, reads = definitions.read_definition_topic, count(1)

    def read_and_overtake(*arguments: Any) -> TopicDefinitions:
        found = read(*arguments)
        if next(reads) == 2:  # the second read is the one that `apply_definitions` decides by
            apply(settings, rule(id="other"))
        return found

    monkeypatch.setattr(definitions, "read_definition_topic", read_and_overtake)
    with pytest.raises(DefinitionsChangedError):
        apply(settings, rule(id="a"), rule(id="b"))
    assert ids_in_topic(settings) == ["other"]
