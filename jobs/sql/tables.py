"""Where the path begins and ends: the Kafka tables, and files for the batch job and tests."""

from __future__ import annotations

from pathlib import Path

from jobs.sql import expressions as sql
from liveprofile.config import KafkaSettings, Settings
from liveprofile.kafka.offsets import scoring_group


def _options(**options: str | int) -> str:
    return ", ".join(
        f"'{key}' = {sql.literal(str(value))}" for key, value in options.items() if value != ""
    )


def kafka_properties(kafka: KafkaSettings) -> dict[str, str]:
    """The Java client's settings; the security ones only where they are used."""
    properties = {
        "properties.bootstrap.servers": kafka.bootstrap_servers,
        "properties.security.protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        plain = kafka.sasl_mechanism == "PLAIN"
        module = (
            "org.apache.kafka.common.security.plain.PlainLoginModule"
            if plain
            else "org.apache.kafka.common.security.scram.ScramLoginModule"
        )
        # The connector shades its Kafka client.
        module = f"org.apache.flink.kafka.shaded.{module}"
        password = kafka.password.get_secret_value().replace("\\", "\\\\").replace('"', '\\"')
        properties["properties.sasl.mechanism"] = kafka.sasl_mechanism
        properties["properties.sasl.jaas.config"] = (
            f'{module} required username="{kafka.username}" password="{password}";'
        )
    if kafka.security_protocol.endswith("SSL") and kafka.ca_file:
        properties["properties.ssl.truststore.type"] = "PEM"
        properties["properties.ssl.truststore.location"] = kafka.ca_file
    return properties


def _kafka_options(settings: Settings, topic: str, group_id: str, **more: str | int) -> str:
    """Of a source that reads the topic raw and without end, unless `more` says otherwise."""
    return _options(
        connector="kafka",
        topic=topic,
        **kafka_properties(settings.kafka),
        **{
            "properties.group.id": group_id,
            "properties.auto.offset.reset": "earliest",
            # As the command line reads: what a producer took back was never said.
            "properties.isolation.level": "read_committed",
            "scan.startup.mode": _START[settings.kafka.startup_mode],
            "scan.bounded.mode": "unbounded",
            "format": "raw",
        }
        | more,
    )


_NEVER = "TO_TIMESTAMP_LTZ(253402300799000, 3)"  # a file has no record time: nothing is too late
_RECORD = """payload STRING,
            record_topic STRING METADATA FROM 'topic' VIRTUAL,
            record_partition INT METADATA FROM 'partition' VIRTUAL,
            record_offset BIGINT METADATA FROM 'offset' VIRTUAL,
            record_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL"""
_START = {"earliest": "earliest-offset", "latest": "latest-offset", "group": "group-offsets"}


def kafka_source(name: str, settings: Settings, *, bounded: bool = False) -> str:
    """The input topic, raw: each field is read by `jobs.sql.profile_views.extracted`. A STRING holds the bytes
    as they came, valid UTF-8 or not, until a check has looked at them.

    Raw, since the json format calls the next operators inside the try block that swallows parse
    errors: whatever a chained operator raised would be lost with its row.
    """
    kafka, window = settings.kafka, settings.window
    clock = sql.event_clock("payload", "record_time", settings.limits.max_clock_skew_ms)
    more: dict[str, str | int] = {
        # A steady stream would else be fetched a few records at a time, as fast as the broker
        # answers.
        "properties.fetch.min.bytes": 65_536,
        "properties.fetch.max.wait.ms": 50,
        # By timer, which rows count as late would change from run to run.
        "scan.watermark.emit.strategy": "on-event",
    }
    if bounded:
        more |= {"scan.startup.mode": "earliest-offset", "scan.bounded.mode": "latest-offset"}
    options = _kafka_options(settings, settings.topics.events, kafka.group_id, **more)
    arrival = "record_offset" if bounded else "PROCTIME()"
    watermark = "" if bounded else f", WATERMARK FOR event_clock AS {sql.watermark(window)}"
    return f"""
        CREATE TEMPORARY TABLE {name} (
            {_RECORD},
            event_clock AS {clock},
            arrival AS {arrival}
            {watermark}
        ) WITH ({options})"""


def kafka_event_source(name: str, settings: Settings, topic: str, max_wait_ms: int) -> str:
    """A topic as the event lane reads it: with its own place in the topic and without a watermark.
    The columns are those of `kafka_source`.

    max_wait_ms: how long the broker may gather records
    """
    clock = sql.event_clock("payload", "record_time", settings.limits.max_clock_skew_ms)
    options = _kafka_options(
        settings,
        topic,
        scoring_group(settings.kafka),
        # Not a fetch for each record: that costs more than it gains.
        **{"properties.fetch.min.bytes": 65_536, "properties.fetch.max.wait.ms": max_wait_ms},
    )
    return f"""
        CREATE TEMPORARY TABLE {name} (
            {_RECORD},
            event_clock AS {clock},
            arrival AS PROCTIME()
        ) WITH ({options})"""


def bounded_event_source(name: str, settings: Settings) -> str:
    """The input topic as it is now, as the event lane's batch reads it: an event arrives at its
    event_time, of equal times in the order of its partition.

    Not at its record time: a topic that was filled by a replay would have all events arrive at
    once, and long after their labels.
    """
    clock = sql.event_clock("payload", "record_time", settings.limits.max_clock_skew_ms)
    bounds = {"scan.startup.mode": "earliest-offset", "scan.bounded.mode": "latest-offset"}
    options = _kafka_options(
        settings, settings.topics.events, scoring_group(settings.kafka), **bounds
    )
    return f"""
        CREATE TEMPORARY TABLE {name} (
            {_RECORD},
            event_clock AS {clock},
            arrival AS {sql.turn(sql.epoch_ms(clock), "record_offset")}
        ) WITH ({options})"""


def file_source(name: str, path: Path | str, settings: Settings, *, stream: bool = False) -> str:
    """Files of JSON lines, each line a payload as the topic would have it.

    A line knows no record time, so none is in the future, and no offset, so of two copies of an
    event the one with the earlier event_time is the first. stream: with a watermark, for tests.
    """
    clock = sql.event_clock("payload", _NEVER, settings.limits.max_clock_skew_ms)
    watermark = f", WATERMARK FOR event_clock AS {sql.watermark(settings.window)}" if stream else ""
    options = _options(connector="filesystem", path=_uri(path), format="raw")
    return f"""
        CREATE TEMPORARY TABLE {name} (
            payload STRING,
            record_topic STRING METADATA FROM 'file.path' VIRTUAL,
            record_partition AS 0,
            record_offset AS CAST(0 AS BIGINT),
            record_time AS {_NEVER},
            event_clock AS {clock},
            arrival AS {"PROCTIME()" if stream else clock}
            {watermark}
        ) WITH ({options})"""


def numbered_file(name: str, path: Path | str, settings: Settings, *, labels: bool = False) -> str:
    """A file of lines with a number, a tab and a payload, as cli.pipeline.backfill_run spools them for
    the event lane; the columns are those of `file_source`, the number is the offset.

    Each arrives at its own time: event_time, or of labels `time`, when they were given; of equal
    times in the file's order.
    """
    tab = "LOCATE('\t', line)"
    payload = f"SUBSTRING(line, {tab} + 1)"
    offset = f"CAST(LEFT(line, {tab} - 1) AS BIGINT)"
    clock = sql.event_clock(payload, _NEVER, settings.limits.max_clock_skew_ms)
    at_ms = sql.event_ms(sql.json_value("$.time", payload)) if labels else sql.epoch_ms(clock)
    options = _options(connector="filesystem", path=_uri(path), format="raw")
    return f"""
        CREATE TEMPORARY TABLE {name} (
            line STRING,
            record_topic STRING METADATA FROM 'file.path' VIRTUAL,
            payload AS {payload},
            record_partition AS 0,
            record_offset AS {offset},
            record_time AS {_NEVER},
            event_clock AS {clock},
            arrival AS {sql.turn(at_ms, offset, label=labels)}
        ) WITH ({options})"""


def file_sink(name: str, path: Path | str, columns: str) -> str:
    """JSON lines."""
    options = _options(connector="filesystem", path=_uri(path), format="json")
    return f"CREATE TEMPORARY TABLE {name} ({columns}) WITH ({options})"


def _uri(path: Path | str) -> str:
    text = str(path)
    return text if "://" in text else Path(text).resolve().as_uri()


def kafka_sink(name: str, settings: Settings, linger_ms: int = 5) -> str:
    """The job's topics, chosen by `topic`; the value is the bytes given, beside key and headers.

    At least once: a record's partition and offset (or its alert id) tell a second copy.
    """
    topics = settings.topics
    options = _options(
        connector="kafka",
        topic=";".join((topics.rejected, topics.late, topics.alerts)),
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
