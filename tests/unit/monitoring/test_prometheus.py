"""Debian's Prometheus scrapes the exporter over HTTP and evaluates the alert rules on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from liveprofile.settings import ServeSettings
from monitoring.catalogue import FIGURES, Readings
from monitoring.server import Exporter, Source, metrics_app
from tests.support.api_server import app_server
from tests.support.paths import PROMETHEUS
from tests.support.prometheus import firing, prometheus
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROMETHEUS.is_file(), reason=f"{PROMETHEUS} is missing: `make test`"),
]

TOKEN = "0123456789abcdef"
# `every_figure` has drift, and a clean audit of 1970.
FIRING = {"LiveprofileModelRefused", "LiveprofileDrift", "LiveprofileAuditOverdue"}


def every_figure() -> Readings:
    """1 for each; so there is drift, but the job runs."""
    readings = Readings()
    for name, figure in FIGURES.items():
        if name.startswith("source_"):
            continue
        if figure.kind == "histogram":
            readings.add_histogram(name, {"0.025": 1, "+Inf": 1}, 0.02)
        else:
            readings.add(name, 1.0, *("x" for _ in figure.labels))
    return readings


@contextmanager
def serving() -> Iterator[str]:
    """HOST:PORT of an exporter that needs a token."""
    source = Source("all", 60.0, every_figure)
    exporter = Exporter([source])
    exporter.read(source)
    registry = CollectorRegistry()
    registry.register(exporter)
    with app_server(metrics_app(registry, TOKEN), ServeSettings(port=0)) as url:
        yield url.partition("//")[2]


def test_prometheus_scrapes_every_figure_and_evaluates_the_rules(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN, encoding="ascii")
    with (
        serving() as target,
        prometheus(tmp_path, target, authorization={"credentials_file": str(token)}) as server,
    ):

        def evaluated() -> list[dict[str, Any]] | None:
            rules = server.rules()
            is_ready = bool(rules) and all(rule["health"] != "unknown" for rule in rules)
            # Groups are evaluated one after the other, and perhaps before the first scrape.
            return rules if is_ready and firing(rules) >= FIRING else None

        rules = until(evaluated)
        names = server.ask("label/__name__/values")
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    assert {f"liveprofile_{name}" for name, each in FIGURES.items() if each.kind == "gauge"} <= set(
        names
    )
    assert firing(rules) == FIRING
