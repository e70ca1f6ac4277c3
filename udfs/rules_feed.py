"""The rules in force: those of the rules file, or of the topic risk-rules once it has a record.

A record of the topic is one rule (key: its id; value: schemas/risk-rule.schema.json). A tombstone
removes the rule. The topic is compacted, so it keeps the newest version of each rule.

With a signing key, only signed records count, and none that was signed before the newest of them:
whoever can write to the topic can neither make a rule nor bring back an old one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable

from liveprofile.config import Settings
from liveprofile.kafka.records import Record
from liveprofile.rules.rules import Rule, RuleProblem, RulesError, RuleSet, read_rule
from liveprofile.rules.signature import RuleSigner, SignatureError
from udfs.topic_follower import KafkaTopicSource, TopicFollower, TopicSource, read_to_end

log = logging.getLogger(__name__)

# The key of a record that every `rules apply` writes. Compaction keeps it when it has dropped the
# removed rules, so an emptied rule set stays empty.
APPLIED_KEY = b"*"


class TopicRules:
    """The rules that result from the records of the topic.

    signer: verifies the records; None accepts every record.
    """

    def __init__(self, signer: RuleSigner | None = None) -> None:
        self._signer = signer
        self._rules: dict[str, Rule] = {}
        self.invalid_ids: set[str] = set()  # keys whose newest record is invalid
        self.has_records = False  # refused records do not count
        self.invalid_records = 0
        self.signed_ms = 0  # the newest signing time

    def apply(self, records: Iterable[Record]) -> None:
        """Applies records in order. An invalid record is counted, logged and skipped: the rule's
        version before it stays."""
        for record in records:
            rule_id = (record.key or b"").decode("utf-8", "replace")
            try:
                self._apply(record, rule_id)
                self.invalid_ids.discard(rule_id)
            except RulesError as error:
                self.invalid_records += 1
                self.invalid_ids.add(rule_id)
                log.warning("%s; the record is ignored", error)

    def _apply(self, record: Record, rule_id: str) -> None:
        position = f"{record.topic}/{record.partition} offset {record.offset}"
        if self._signer is not None:
            self._verify(record, rule_id, position, self._signer)
        self.has_records = True
        if record.key == APPLIED_KEY:
            return
        if record.value is None:
            self._rules.pop(rule_id, None)
            return
        rule = read_rule(record.value, position)
        if rule.id != rule_id:
            problem = RuleProblem(rule.id, "id", f"the record's key is {rule_id!r}")
            raise RulesError(position, [problem])
        self._rules[rule_id] = rule

    def _verify(self, record: Record, rule_id: str, position: str, signer: RuleSigner) -> None:
        """Raises RulesError.

        The signing time must not go back in the whole topic, not only for the rule: compaction
        drops the record that removed a rule, and with it the time of the removal.
        """
        try:
            signed_ms = signer.verify(record.key or b"", record.value, record.headers)
            if signed_ms < self.signed_ms:
                raise SignatureError("it was signed before the records in force: an old copy?")
        except SignatureError as error:
            problem = RuleProblem(rule_id, "signature", str(error))
            raise RulesError(position, [problem]) from None
        self.signed_ms = signed_ms

    def rules(self) -> RuleSet:
        """Returns the rules in order of their ids. The version is a digest of the rules."""
        rules = tuple(self._rules[rule_id] for rule_id in sorted(self._rules))
        text = "\n".join(rule.model_dump_json() for rule in rules)
        return RuleSet(version=hashlib.sha256(text.encode()).hexdigest()[:12], rules=rules)


def _open_source(settings: Settings) -> TopicSource:
    return KafkaTopicSource(settings, settings.topics.rules, "liveprofile-rules")


def rule_signer(settings: Settings) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    key = settings.rules_signing_key
    return None if key is None else RuleSigner(key.get_secret_value(), settings.topics.rules)


def read_topic_rules(settings: Settings) -> TopicRules:
    """Reads the topic once to its end. Returns no rules if it does not exist.

    Raises ServiceError.
    """
    topic_rules = TopicRules(rule_signer(settings))
    read_to_end(settings.topics.rules, lambda: _open_source(settings), topic_rules.apply)
    return topic_rules


class RulesFeed:
    """Keeps the rules in force up to date in a thread of its own.

    file_rules: in force until the topic has a record, and if it does not exist or is not read.
    open_source: called in the feed's thread, again after each failure. None: `file_rules` stay in
    force.
    signer: verifies the records; None accepts every record.
    timing: keyword arguments of TopicFollower.

    Failures of the source are logged, never raised: the last rules stay in force.
    """

    def __init__(
        self,
        file_rules: RuleSet,
        open_source: Callable[[], TopicSource] | None = None,
        *,
        signer: RuleSigner | None = None,
        **timing: float,
    ):
        self._current, self._signer = file_rules, signer
        self._invalid_records = 0
        self._signed_ms = 0  # when the rules in force were signed
        self._follower: TopicFollower | None = None
        if open_source is not None:
            self._follower = TopicFollower(
                "risk-rules",
                "rules",
                open_source,
                lambda: _FeedReader(self),
                lambda: f"rules {self._current.version} stay",
                **timing,
            )

    def current(self) -> RuleSet:
        """Returns the rules in force, an immutable value."""
        return self._current

    @property
    def invalid_records(self) -> int:
        """Invalid records of the topic since it was last read from its beginning."""
        return self._invalid_records

    def close(self) -> None:
        """Ends the thread. `current` still works afterwards."""
        if self._follower is not None:
            self._follower.close()

    def _set_current(self, topic_rules: TopicRules) -> str:
        """Returns the reason if the rules stay as they are, else ""."""
        if topic_rules.signed_ms < self._signed_ms:
            return "the topic lacks the records that were signed last"
        rules, self._signed_ms = topic_rules.rules(), topic_rules.signed_ms
        if rules.version != self._current.version:
            log.info("rules %s in force: %s", rules.version, [rule.id for rule in rules.rules])
            self._current = rules
        return ""


class _FeedReader:
    """Puts the rules of one pass over the topic in force."""

    def __init__(self, feed: RulesFeed):
        self._feed, self._rules = feed, TopicRules(feed._signer)

    def take(self, records: list[Record]) -> None:
        self._rules.apply(records)
        self._feed._invalid_records = self._rules.invalid_records

    def publish(self) -> str:
        return self._feed._set_current(self._rules) if self._rules.has_records else ""


def open_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Opens the feed of a job: the rules of the file, then those of the topic."""
    return RulesFeed(file_rules, lambda: _open_source(settings), signer=rule_signer(settings))


def open_fixed_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Replaces `open_rules_feed` where there is no Kafka: the rules of the file only."""
    return RulesFeed(file_rules)
