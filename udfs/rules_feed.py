"""The rules in force: those of the rules file, or of the topic risk-rules once it has a record.

udfs/definition_feed.py describes topic and feed; schemas/risk-rule.schema.json a record.
"""

from __future__ import annotations

import hashlib

from liveprofile.rules.definitions import RuleSigner
from liveprofile.rules.rules import Rule, RulesError, RuleSet, read_rule
from liveprofile.settings import Settings
from udfs.definition_feed import (
    DefinitionFeed,
    TopicDefinitions,
    definition_signer,
    open_definition_source,
    read_definitions,
)


class TopicRules(TopicDefinitions[Rule, RuleSet]):
    """The rules that result from the records of the topic."""

    error = RulesError

    def _read(self, value: bytes, position: str) -> Rule:
        return read_rule(value, position)

    def in_force(self) -> RuleSet:
        text = "\n".join(rule.model_dump_json() for rule in self.definitions)
        version = hashlib.sha256(text.encode()).hexdigest()[:12]
        return RuleSet(version=version, rules=tuple(self.definitions))


class RulesFeed(DefinitionFeed[RuleSet]):
    """Keeps the rules in force up to date."""

    noun = "rules"
    new_topic = TopicRules


def rule_signer(settings: Settings) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    return definition_signer(settings, settings.topics.rules)


def read_topic_rules(settings: Settings) -> TopicRules:
    """Reads the topic once to its end. Returns no rules if it does not exist.

    Raises ServiceError.
    """
    return read_definitions(settings, settings.topics.rules, TopicRules(rule_signer(settings)))


def open_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Opens the feed of a job: the rules of the file, then those of the topic."""
    topic = settings.topics.rules
    return RulesFeed(
        file_rules, lambda: open_definition_source(settings, topic), signer=rule_signer(settings)
    )


def open_fixed_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Replaces `open_rules_feed` where there is no Kafka: the rules of the file only."""
    return RulesFeed(file_rules)
