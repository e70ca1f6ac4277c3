"""Source and sink tables: Kafka topics, and files for the backfill and for tests."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from jobs.sql import expressions as sql
from liveprofile.kafka.offsets import scoring_group
from liveprofile.settings import KafkaSettings, Settings


def _options(**options: str | int) -> str:
    return ", ".join(
        f"'{key}' = {sql.literal(str(value))}" for key, value in options.items() if value != ""
    )


# The connector shades its Kafka client.
_KAFKA = "org.apache.flink.kafka.shaded.org.apache.kafka.common"
_LOGIN_MODULES = {
    "PLAIN": f"{_KAFKA}.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_KAFKA}.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_KAFKA}.security.scram.ScramLoginModule",
}


def kafka_properties(kafka: KafkaSettings) -> dict[str, str]:
    """Options of the Java client. Security options appear only where they are used."""
    properties = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
    }
    if kafka.uses_sasl:
        password = kafka.password.get_secret_value().replace("\\", "\\\\").replace('"', '\\"')
        properties["sasl.mechanism"] = kafka.sasl_mechanism
        properties["sasl.jaas.config"] = (
            f"{_LOGIN_MODULES[kafka.sasl_mechanism]} required"
            f' username="{kafka.username}" password="{password}";'
        )
    if kafka.uses_tls:
        properties |= _tls(kafka)
    return {f"properties.{name}": value for name, value in properties.items()}


def _tls(kafka: KafkaSettings) -> dict[str, str]:
    properties = {}
    if kafka.ca_file:
        properties["ssl.truststore.type"] = "PEM"
        properties["ssl.truststore.location"] = kafka.ca_file
    if kafka.certificate_file:
        # The client takes one file with key and certificate, or their text. A config provider makes
        # it read the text where it runs, so the key is not part of the job graph.
        properties |= {
            "config.providers": "directory",
            "config.providers.directory.class": f"{_KAFKA}.config.provider.DirectoryConfigProvider",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _content_of(kafka.certificate_file),
            "ssl.keystore.key": _content_of(kafka.key_file),
            "ssl.key.password": kafka.key_password.get_secret_value(),
        }
    return properties


def _content_of(file: str) -> str:
    path = Path(file)
    return f"${{directory:{path.parent}:{path.name}}}"


def _kafka_options(settings: Settings, topic: str, group_id: str, **more: str | int) -> str:
    """Options of an unbounded source of raw records. `more` overrides them."""
    return _options(
        connector="kafka",
        topic=topic,
        **kafka_properties(settings.kafka),
        **{
            "properties.group.id": group_id,
            "properties.auto.offset.reset": "earliest",
            # Records of an aborted transaction are not read, as in the command line.
            "properties.isolation.level": "read_committed",
            "scan.startup.mode": _START[settings.kafka.startup_mode],
            "scan.bounded.mode": "unbounded",
            "format": "raw",
        }
        | more,
    )


# The record time of files, which have none: no event is in the future of the year 9999.
_END_OF_TIME = "TO_TIMESTAMP_LTZ(253402300799000, 3)"
_RECORD = """payload STRING,
            record_topic STRING METADATA FROM 'topic' VIRTUAL,
            record_partition INT METADATA FROM 'partition' VIRTUAL,
            record_offset BIGINT METADATA FROM 'offset' VIRTUAL,
            record_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL"""
NO_OFFSETS: Mapping[int, int] = MappingProxyType({})
_START = {"earliest": "earliest-offset", "latest": "latest-offset", "group": "group-offsets"}


def _start_at(offsets: Mapping[int, int]) -> dict[str, str]:
    """Options that override the start position; none if there are no offsets."""
    if not offsets:
        return {}
    places = (f"partition:{number},offset:{offset}" for number, offset in offsets.items())
    return {
        "scan.startup.mode": "specific-offsets",
        "scan.startup.specific-offsets": ";".join(places),
    }


_ALL_OF_IT = {"scan.startup.mode": "earliest-offset", "scan.bounded.mode": "latest-offset"}
# Without a minimum, a steady stream is fetched a few records at a time.
_FETCH = {"properties.fetch.min.bytes": 65_536}


def _source(
    name: str,
    clock: str,
    arrival: str,
    options: str,
    *,
    columns: str = _RECORD,
    watermark: str = "",
) -> str:
    """A table of payloads with their clock and their order of arrival."""
    return f"""
        CREATE TEMPORARY TABLE {name} (
            {columns},
            event_clock AS {clock},
            arrival AS {arrival}
            {watermark}
        ) WITH ({options})"""


def _clock(settings: Settings, payload: str = "payload", record_time: str = "record_time") -> str:
    return sql.event_clock(payload, record_time, settings.limits.max_clock_skew_ms)


def kafka_source(
    name: str,
    settings: Settings,
    *,
    bounded: bool = False,
    start_offsets: Mapping[int, int] = NO_OFFSETS,
) -> str:
    """The input topic for the profile pipeline, as raw payloads.

    `start_offsets`: by partition, where a job without offsets in its state starts; none:
    `kafka.startup_mode`.

    The STRING keeps the bytes of the payload, valid UTF-8 or not. The json format is no option: it
    calls the next operators inside the try block that ignores parse errors, so a row whose operator
    fails would be lost without an error.
    """
    window = settings.window
    more: dict[str, str | int] = _FETCH | {
        "properties.fetch.max.wait.ms": 50,
        # With a timer, which events are late would change from run to run.
        "scan.watermark.emit.strategy": "on-event",
    }
    more |= _ALL_OF_IT if bounded else _start_at(start_offsets)
    if window.max_partition_drift_ms and not bounded:
        more |= {
            "scan.watermark.alignment.group": name,
            "scan.watermark.alignment.max-drift": f"{window.max_partition_drift_ms} ms",
            "scan.watermark.alignment.update-interval": "1 s",
        }
    options = _kafka_options(settings, settings.topics.events, settings.kafka.group_id, **more)
    arrival = "record_offset" if bounded else "PROCTIME()"
    watermark = "" if bounded else f", WATERMARK FOR event_clock AS {sql.watermark(window)}"
    return _source(name, _clock(settings), arrival, options, watermark=watermark)


def kafka_scoring_source(
    name: str,
    settings: Settings,
    topic: str,
    max_wait_ms: int,
    start_offsets: Mapping[int, int] = NO_OFFSETS,
) -> str:
    """A topic for the scoring pipeline: with a consumer group of its own and no watermark.

    Columns and `start_offsets` are those of `kafka_source`. `max_wait_ms`: how long the broker may
    gather records.
    """
    more = {
        **_FETCH,
        "properties.fetch.max.wait.ms": max_wait_ms,
        **_start_at(start_offsets),
    }
    options = _kafka_options(settings, topic, scoring_group(settings.kafka), **more)
    return _source(name, _clock(settings), "PROCTIME()", options)


def bounded_scoring_source(name: str, settings: Settings) -> str:
    """The present content of the input topic, for the backfill of the scoring pipeline.

    Events arrive at the time that they are scored with, and in the order of their partition if
    times are equal. The record time is no substitute: in a topic filled by a replay all events
    would arrive at once, long after their labels.
    """
    event_ms = sql.scoring_ms(_clock(settings), "record_time", settings.scoring)
    arrival = sql.arrival_order(event_ms, "record_offset")
    group = scoring_group(settings.kafka)
    options = _kafka_options(settings, settings.topics.events, group, **_ALL_OF_IT)
    return _source(name, _clock(settings), arrival, options)


def numbered_file(name: str, path: Path | str, settings: Settings, *, labels: bool = False) -> str:
    """A file of lines with a number, a tab and a payload, for the backfill.

    The number is the offset. Events arrive at their event_time, labels at their `time`, and in the
    order of the file if times are equal. A line has no record time, so no event is in the future.
    """
    tab = "LOCATE('\t', line)"
    payload, offset = f"SUBSTRING(line, {tab} + 1)", f"CAST(LEFT(line, {tab} - 1) AS BIGINT)"
    clock = _clock(settings, payload, _END_OF_TIME)
    at_ms = sql.label_ms(payload) if labels else sql.epoch_ms(clock)
    columns = f"""line STRING,
            record_topic STRING METADATA FROM 'file.path' VIRTUAL,
            payload AS {payload},
            record_partition AS 0,
            record_offset AS {offset},
            record_time AS {_END_OF_TIME}"""
    options = _options(connector="filesystem", path=_uri(path), format="raw")
    arrival = sql.arrival_order(at_ms, offset, label=labels)
    return _source(name, clock, arrival, options, columns=columns)


def record_file(name: str, path: Path | str, settings: Settings) -> str:
    """A file of JSON lines, each a record with its place in Kafka, for corrections.

    `number` is the order of arrival (offline/late_windows/late_events.py writes it).
    """
    record_time = "TO_TIMESTAMP_LTZ(record_ms, 3)"
    columns = f"""payload STRING,
            record_topic STRING,
            record_partition INT,
            record_offset BIGINT,
            record_ms BIGINT,
            number BIGINT,
            record_time AS {record_time}"""
    options = _options(connector="filesystem", path=_uri(path), format="json")
    clock = _clock(settings, record_time=record_time)
    return _source(name, clock, "number", options, columns=columns)


def file_sink(name: str, path: Path | str, columns: str) -> str:
    """JSON lines."""
    options = _options(connector="filesystem", path=_uri(path), format="json")
    return f"CREATE TEMPORARY TABLE {name} ({columns}) WITH ({options})"


def _uri(path: Path | str) -> str:
    text = str(path)
    return text if "://" in text else Path(text).resolve().as_uri()


def kafka_sink(name: str, settings: Settings, linger_ms: int = 5) -> str:
    """The output topics. Column `topic` selects the topic, and the value is written as given.

    Delivery is at least once: consumers recognise a copy by its source partition and offset, or by
    its alert id.
    """
    topics = settings.topics
    options = _options(
        connector="kafka",
        topic=";".join((topics.rejected, topics.late, topics.alerts, topics.segment_changes)),
        **kafka_properties(settings.kafka),
        **{
            "key.format": "raw",
            "key.fields": "record_key",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
            "sink.delivery-guarantee": "at-least-once",
            "properties.linger.ms": linger_ms,
            "properties.compression.type": "lz4",
        },
    )
    return f"""
        CREATE TEMPORARY TABLE {name} (
            record_key STRING,
            payload STRING,
            topic STRING NOT NULL METADATA,
            headers MAP<STRING, BYTES> METADATA
        ) WITH ({options})"""
