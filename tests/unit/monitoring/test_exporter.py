"""The exporter answers from the last readings, and leaves out those that are old."""

import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from liveprofile.errors import ServiceError
from monitoring.catalogue import Readings
from monitoring.server import Exporter, Source

INTERVAL_S = 15.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lag_of(*values: int | Exception) -> Callable[[], Readings]:
    left = list(values)

    def read() -> Readings:
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        readings = Readings()
        readings.add("lag_records", value, "profile")
        return readings

    return read


def samples(exporter: Exporter) -> dict[str, float]:
    """{name or name/label: value} of a scrape, as Prometheus parses it."""
    registry = CollectorRegistry()
    registry.register(exporter)
    text = generate_latest(registry).decode()
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_scrape_has_the_last_readings_of_each_source() -> None:
    clock = Clock()
    kafka = Source("kafka", INTERVAL_S, lag_of(7, 9))
    exporter = Exporter([kafka, Source("flink", INTERVAL_S, lag_of())], clock)
    assert samples(exporter) == {
        "liveprofile_source_up/kafka": 0.0,
        "liveprofile_source_up/flink": 0.0,
    }
    exporter.read(kafka)
    exporter.read(kafka)
    found = samples(exporter)
    assert found["liveprofile_lag_records/profile"] == 9.0
    assert found["liveprofile_source_up/kafka"] == 1.0
    assert found["liveprofile_source_up/flink"] == 0.0


def test_old_readings_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock, away = Clock(), ServiceError("no Kafka at k:1")
    kafka = Source("kafka", INTERVAL_S, lag_of(7, away, away, 8))
    exporter = Exporter([kafka], clock)
    exporter.read(kafka)
    clock.now_s += 3 * INTERVAL_S
    exporter.read(kafka)
    assert samples(exporter)["liveprofile_lag_records/profile"] == 7.0
    clock.now_s += 0.1
    exporter.read(kafka)
    assert samples(exporter) == {"liveprofile_source_up/kafka": 0.0}
    exporter.read(kafka)
    assert samples(exporter)["liveprofile_lag_records/profile"] == 8.0
    assert caplog.messages == ["source kafka: no Kafka at k:1", "source kafka answers again"]


def test_defect_of_a_source_ends_the_exporter() -> None:
    """Only errors of services are expected; an exporter without a source would look healthy."""
    stopped = threading.Event()
    exporter = Exporter([Source("kafka", INTERVAL_S, lag_of(KeyError("defect")))])
    with pytest.raises(KeyError, match="defect"), exporter.running(on_defect=stopped.set):
        assert stopped.wait(10)
