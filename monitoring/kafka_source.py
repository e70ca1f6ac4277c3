"""What Kafka knows: lag of the consumer groups, and the audit's position in the input topic."""

from __future__ import annotations

from pathlib import Path

from liveprofile.audit.state_file import read_state
from liveprofile.config import Settings
from liveprofile.kafka.offsets import lag, partition_ranges, scoring_group
from monitoring.catalogue import Readings
from monitoring.topic_counts import TopicCounter


def read_kafka(settings: Settings, counters: list[TopicCounter]) -> Readings:
    """Lag, late records, and what the counters have counted. Raises ServiceError."""
    readings = Readings()
    readings.add("lag_records", lag(settings), "profile")
    if settings.scoring.enabled:
        readings.add("lag_records", lag(settings, scoring_group(settings.kafka)), "scoring")
    late = partition_ranges(settings, settings.topics.late)
    readings.add("records_late", sum(span.end for span in late.values()))
    for counter in counters:
        counter.add_to(readings)
    return readings


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
