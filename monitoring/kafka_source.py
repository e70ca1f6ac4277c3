"""What Kafka knows: lag of the consumer groups, and the audit's position in the input topic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from liveprofile.audit.state_file import read_state
from liveprofile.identity.logins import Outcome, read_counts
from liveprofile.kafka.offsets import (
    committed_progress,
    decoder_group,
    lag,
    login_group,
    partition_ranges,
    scoring_group,
)
from liveprofile.kafka.topics import NoTopicError
from liveprofile.settings import Settings
from monitoring.catalogue import Readings
from monitoring.topic_counts import TopicCounter


def read_kafka(settings: Settings, counters: list[TopicCounter]) -> Readings:
    """Lag, late records, and what the counters have counted. Raises ServiceError."""
    readings = Readings()
    readings.add("lag_records", lag(settings), "profile")
    if settings.scoring.enabled:
        readings.add("lag_records", lag(settings, scoring_group(settings.kafka)), "scoring")
    if (records := _records_to_decode(settings)) is not None:
        readings.add("lag_records", records, "decoder")
    _add_logins(settings, readings)
    late = partition_ranges(settings, settings.topics.late)
    readings.add("records_late", sum(span.end for span in late.values()))
    for counter in counters:
        counter.add_to(readings)
    return readings


def _records_to_decode(settings: Settings) -> int | None:
    """None if nothing has ever been sent to `liveprofile events decode`."""
    topic = settings.topics.encoded
    try:
        if not any(span.end for span in partition_ranges(settings, topic).values()):
            return None
    except NoTopicError:  # of a deployment that does not use it
        return None
    return lag(settings, decoder_group(settings.kafka), topic)


def _add_logins(settings: Settings, readings: Readings) -> None:
    """Nothing if `liveprofile identity link-logins` has never run."""
    topic, group = settings.topics.events, login_group(settings.kafka)
    if not (progress := committed_progress(settings, topic, group)):
        return
    readings.add("lag_records", lag(settings, group, topic), "logins")
    counts = sum(read_counts(progress).values(), Counter())
    for outcome in Outcome:
        readings.add("logins", counts[outcome.value], outcome.value)


def read_audit(settings: Settings, state_file: Path) -> Readings:
    """How far the audits with `--state` have come. Without a clean one yet, there is no figure.

    Raises InputError if the file is of another topic, ServiceError if Kafka does not answer.
    """
    readings = Readings()
    topic = settings.topics.events
    if (state := read_state(state_file, topic)) is None:
        return readings
    ranges = partition_ranges(settings, topic)
    pending = sum(span.end - state.offsets.get(number, 0) for number, span in ranges.items())
    readings.add("audit_clean_timestamp_seconds", state_file.stat().st_mtime)
    readings.add("audit_pending_records", pending)
    return readings
