"""What Kafka knows: lag of the consumer groups, and the audit's position in the input topic."""

from __future__ import annotations

from pathlib import Path

from liveprofile.audit.state_file import read_state
from liveprofile.config import Settings
from liveprofile.kafka.offsets import decoder_group, lag, partition_ranges, scoring_group
from liveprofile.kafka.topics import NoTopicError
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
    late = partition_ranges(settings, settings.topics.late)
    readings.add("records_late", sum(span.end for span in late.values()))
    for counter in counters:
        counter.add_to(readings)
    return readings


def _records_to_decode(settings: Settings) -> int | None:
    """None if nothing has ever been sent to `liveprofile decode`."""
    topic = settings.topics.encoded
    try:
        if not any(span.end for span in partition_ranges(settings, topic).values()):
            return None
    except NoTopicError:  # of a deployment that does not use it
        return None
    return lag(settings, decoder_group(settings.kafka), topic)


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
