"""Debian's Prometheus on a loopback port, with the alert rules of the product."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from monitoring.catalogue import FIGURES, PREFIX
from stack.state import free_ports
from tests.support import summary
from tests.support.paths import PROMETHEUS, ROOT
from tests.support.waiting import until

FIRES_WITHIN_S = 180.0
POLL_S = 0.3  # it evaluates once a second
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"


class Prometheus:
    """A running server."""

    def __init__(self, address: str):
        self._address = address

    def ask(self, path: str, **query: str) -> Any:
        """`data` of an answer of the HTTP API; None while it does not answer."""
        url = f"http://{self._address}/api/v1/{path}?{urlencode(query, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except OSError:
            return None

    def values(self, query: str) -> dict[tuple[str, ...], float]:
        """{values of the labels, sorted by their names: value} of an instant query.

        The labels that Prometheus adds, and the name, are left out.
        """
        found = (self.ask("query", query=query) or {"result": []})["result"]
        return {
            tuple(
                label
                for name, label in sorted(each["metric"].items())
                if name not in ("__name__", "instance", "job")
            ): float(each["value"][1])
            for each in found
        }

    def wait_for(self, query: str) -> dict[tuple[str, ...], float]:
        """`values` once there are any: a source that answers late has none for a while."""
        return until(lambda: self.values(query), poll_s=POLL_S)

    def first_time_s(self, query: str, since_s: float) -> float | None:
        """When the query first had a value, in seconds of the epoch; None if it had none yet."""
        range_ = {"start": str(since_s), "end": str(time.time()), "step": "1s"}
        found = (self.ask("query_range", query=query, **range_) or {"result": []})["result"]
        return min((series["values"][0][0] for series in found), default=None)

    def rules(self) -> list[dict[str, Any]]:
        groups = (self.ask("rules") or {"groups": []})["groups"]
        return [rule for group in groups for rule in group["rules"]]


def firing(rules: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names of the alerts that fire. rules: of `Prometheus.rules`."""
    return {rule["name"] for rule in rules if rule["state"] == "firing"}


@contextmanager
def prometheus(
    folder: Path, target: str, interval: str = "1s", **scraping: Mapping[str, Any]
) -> Iterator[Prometheus]:
    """Scrapes HOST:PORT and evaluates the alert rules in this interval while the block runs.

    scraping: more settings of the scrape, such as `authorization`.
    """
    address = f"127.0.0.1:{free_ports(1)[0]}"
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "liveprofile", "static_configs": [{"targets": [target]}], **scraping}
        ],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    command = [
        str(PROMETHEUS),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "prometheus.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield Prometheus(address)
        finally:
            process.terminate()


@contextmanager
def fires(alert: str, exporter: str, folder: Path) -> Iterator[Callable[[], float]]:
    """Raises AssertionError unless the alert fires. The block begins with the fault.

    It gets a function that waits for the alert. The summary says how long after the fault it fires.
    Each call starts a Prometheus, which has no memory of earlier faults. exporter: its URL.
    """
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    # An increase needs a sample before it.
    sampled = "count_over_time(liveprofile_job_running[1m]) > 1"
    with prometheus(folder, exporter.split("/")[2]) as server:
        until(lambda: server.values(sampled), FIRES_WITHIN_S, POLL_S)
        assert not server.values(firing), f"{alert} fires before the fault"
        fault_s = time.time()

        def wait() -> float:
            return until(lambda: server.first_time_s(firing, fault_s), FIRES_WITHIN_S, POLL_S)

        yield wait
        summary.LINES.append(f"alert {alert}: fires {wait() - fault_s:.0f} s after the fault")


def exported_names() -> set[str]:
    """The names of all series, as a query writes them."""
    endings = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        PREFIX + name + ending
        for name, figure in FIGURES.items()
        for ending in endings[figure.kind]
    }
