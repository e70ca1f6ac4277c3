"""Rules and segments as the API takes them: which file, topic and validation a kind has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from liveprofile.config import Settings
from liveprofile.rules.definitions import Definition
from liveprofile.rules.rules import read_rules, rules_of
from liveprofile.segments.definitions import read_segments, segments_of
from udfs.definition_changes import ReadFile, ReadTopic
from udfs.rules_feed import read_topic_rules
from udfs.segments_feed import read_topic_segments

DefinitionKind = Literal["rules", "segments"]
SOURCE = "request body"


class KindOfDefinition(NamedTuple):
    topic_name: Callable[[Settings], str]
    read_topic: ReadTopic
    file: Callable[[Settings], Path]
    read_file: ReadFile
    parse: Callable[[Iterable[Mapping[str, Any]], str], list[Definition]]


KINDS: Mapping[DefinitionKind, KindOfDefinition] = {
    "rules": KindOfDefinition(
        lambda settings: settings.topics.rules,
        read_topic_rules,
        lambda settings: settings.rules,
        read_rules,
        rules_of,
    ),
    "segments": KindOfDefinition(
        lambda settings: settings.topics.segments,
        read_topic_segments,
        lambda settings: settings.segments,
        read_segments,
        segments_of,
    ),
}


def parse(kind: DefinitionKind, tables: Iterable[Mapping[str, Any]]) -> list[Definition]:
    """The definitions of a request. Raises DefinitionsError with every fault."""
    return KINDS[kind].parse(tables, SOURCE)
