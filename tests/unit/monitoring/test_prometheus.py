"""Debian's Prometheus scrapes the exporter over HTTP and evaluates the alert rules on it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client import CollectorRegistry, make_asgi_app

from liveprofile.serve_settings import ServeSettings
from monitoring.catalogue import FIGURES, Readings
from monitoring.exporter import Exporter, Source
from monitoring.server import MetricsApp, _Described
from serve.server import listen, server_of, url_of
from stack.state import free_ports
from tests.support.paths import PROMETHEUS, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROMETHEUS.is_file(), reason=f"{PROMETHEUS} is missing: `make test`"),
]

TOKEN = "0123456789abcdef"
# `every_figure` has drift in the periods hour and day, and a clean audit of 1970.
FIRING = {"LiveprofileModelRefused", "LiveprofileDrift", "LiveprofileAuditOverdue"}
TIMEOUT_S = 60.0


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
    registry.register(_Described(exporter))
    limits = ServeSettings(port=0)
    server = server_of(MetricsApp(make_asgi_app(registry), TOKEN), limits)
    with listen(limits) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield url_of(limits, listening).partition("//")[2]
        finally:
            server.should_exit = True
            thread.join()


def until(answer: Callable[[], Any]) -> Any:
    """The first answer that is not empty."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (found := answer()):
        assert time.monotonic() < deadline_s
        time.sleep(0.3)
    return found


def test_prometheus_scrapes_every_figure_and_evaluates_the_rules(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    token = tmp_path / "token"
    token.write_text(TOKEN, encoding="ascii")

    def ask(path: str, **query: str) -> Any:
        url = f"http://{address}/api/v1/{path}?{urlencode(query, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except OSError:
            return None

    def evaluated() -> list[dict[str, Any]] | None:
        groups = (ask("rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        is_ready = bool(rules) and all(rule["health"] != "unknown" for rule in rules)
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        # Groups are evaluated one after the other, and perhaps before the first scrape.
        return rules if is_ready and firing >= FIRING else None

    with serving() as target, (tmp_path / "log").open("w") as log:
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "monitoring" / "prometheus" / "alerts.yaml")],
            "scrape_configs": [
                {
                    "job_name": "liveprofile",
                    "authorization": {"credentials_file": str(token)},
                    "static_configs": [{"targets": [target]}],
                }
            ],
        }
        file = tmp_path / "prometheus.yaml"
        file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        command = [
            str(PROMETHEUS),
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                rules = until(evaluated)
                names = ask("label/__name__/values")
            finally:
                process.terminate()
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    assert {f"liveprofile_{name}" for name, each in FIGURES.items() if each.kind == "gauge"} <= set(
        names
    )
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing == FIRING
