"""Rules and segments as the API takes them: which file, topic and validation a kind has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from liveprofile.attributes.definitions import AttributesError, check_attributes
from liveprofile.errors import ServiceError
from liveprofile.feeds.definition_changes import ReadFile, ReadTopic
from liveprofile.feeds.definitions import read_topic_rules, read_topic_segments
from liveprofile.rules.definitions import Definition, DefinitionsError
from liveprofile.rules.rules import RulesError, read_rules, rules_of
from liveprofile.segments.definitions import SegmentsError, read_segments, segments_of
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

DefinitionKind = Literal["rules", "segments"]
SOURCE = "request body"
ATTRIBUTES_FILE: Path = Settings.model_fields["attributes"].default


class KindOfDefinition(NamedTuple):
    topic_name: Callable[[Settings], str]
    read_topic: ReadTopic
    file: Callable[[Settings], Path]
    read_file: ReadFile
    parse: Callable[[Iterable[Mapping[str, Any]], str], list[Definition]]
    error: type[DefinitionsError]


KINDS: Mapping[DefinitionKind, KindOfDefinition] = {
    "rules": KindOfDefinition(
        lambda settings: settings.topics.rules,
        read_topic_rules,
        lambda settings: settings.rules,
        read_rules,
        rules_of,
        RulesError,
    ),
    "segments": KindOfDefinition(
        lambda settings: settings.topics.segments,
        read_topic_segments,
        lambda settings: settings.segments,
        read_segments,
        segments_of,
        SegmentsError,
    ),
}


def parse(
    kind: DefinitionKind, tables: Iterable[Mapping[str, Any]], attributes: Path
) -> list[Definition]:
    """The definitions of a request.

    attributes: the file with the attributes that conditions may read. Raises DefinitionsError with
    every fault, ServiceError if that file is invalid.
    """
    of = KINDS[kind]
    definitions = of.parse(tables, SOURCE)
    try:
        check_attributes(SOURCE, of.error, definitions, lambda: attributes)
    except AttributesError as error:
        log.error("conditions cannot be checked: %s", error)
        raise ServiceError(str(error)) from None
    return definitions
