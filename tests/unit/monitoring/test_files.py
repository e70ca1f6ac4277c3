"""Alert rules and dashboards name metrics that are exported, and promtool accepts the rules."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.catalogue import FIGURES, PREFIX
from serve.guard import ApiMetrics
from tests.support.paths import PROMTOOL, ROOT
from tests.support.prometheus import exported_names

FOLDER = ROOT / "deploy"
RULES = FOLDER / "prometheus" / "alerts.yaml"
TESTS = FOLDER / "prometheus" / "alerts_test.yaml"
FAULT_TESTS = FOLDER / "prometheus" / "faults_test.yaml"
DASHBOARDS = sorted((FOLDER / "grafana").glob("*.json"))
NAME = re.compile(rf"\b{PREFIX}\w+")
SEVERITIES = {"page", "ticket"}


def exported() -> set[str]:
    api = {
        sample.name
        for family in ApiMetrics().registry.collect()
        for sample in family.samples or [family]
    }
    # Metrics with labels have no sample before the first request.
    api |= {
        f"{PREFIX}api_requests_total",
        *(f"{PREFIX}api_request_seconds{ending}" for ending in ("_bucket", "_sum", "_count")),
    }
    return exported_names() | api


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries(dashboard: Path) -> list[str]:
    panels = json.loads(dashboard.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_names_exported_metrics_and_what_to_do(alert: dict[str, Any]) -> None:
    names = set(NAME.findall(alert["expr"]))
    assert names <= exported(), names - exported()
    assert names or alert["expr"].startswith("up{")
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["action"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboard_names_exported_metrics(dashboard: Path) -> None:
    for query in queries(dashboard):
        names = set(NAME.findall(query))
        assert names and names <= exported(), query


def test_every_figure_is_on_a_dashboard_in_an_alert_or_counts_tasks() -> None:
    used = set(NAME.findall(RULES.read_text("utf-8")))
    used |= {name for file in DASHBOARDS for query in queries(file) for name in NAME.findall(query)}
    unused = {
        name for name in FIGURES if not any(each.startswith(f"{PREFIX}{name}") for each in used)
    }
    assert unused == {"job_uptime_seconds", "job_tasks_running", "job_tasks"}


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert [name for name in FIGURES if f"`{name}`" not in text] == []
    assert [alert["alert"] for alert in alerts() if f"`{alert['alert']}`" not in text] == []


def test_every_alert_has_a_test() -> None:
    tested = set(re.findall(r'alertname="(\w+)"', TESTS.read_text("utf-8")))
    assert tested == {alert["alert"] for alert in alerts()}


def documented_faults() -> dict[str, set[str]]:
    """The table of docs/operate.md: {fault: alerts that fire within 60 s}."""
    text = (ROOT / "docs" / "operate.md").read_text("utf-8")
    table = text.partition("| fault |")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    # "later" and "while it is away": not within 60 s, or not of the fault as it is tested.
    return {row[0].strip(): set(re.findall(r"`(\w+)`", row[2].partition(";")[0])) for row in rows}


def test_each_fault_that_interrupts_the_job_has_an_alert_that_is_tested() -> None:
    tests = {test["name"]: test for test in yaml.safe_load(FAULT_TESTS.read_text("utf-8"))["tests"]}
    faults = documented_faults()
    assert faults["broker killed, back when the exporter says so"] == {"LiveprofileSourceDown"}
    for fault, expected in faults.items():
        before, after = tests[fault]["promql_expr_test"] if expected else ({}, {})
        assert not expected or (before["eval_time"], after["eval_time"]) == ("2m", "3m"), fault
        fired = {
            name
            for each in after.get("exp_samples", ())
            for name in re.findall(r'"(\w+)"', each["labels"])
        }
        assert fired == expected, fault


@pytest.mark.slow
@pytest.mark.skipif(not PROMTOOL.is_file(), reason=f"{PROMTOOL} is missing: stack/prometheus.sh")
def test_promtool_accepts_configuration_and_rules() -> None:
    for arguments in (
        ("check", "config", str(FOLDER / "prometheus" / "prometheus.yaml")),
        ("test", "rules", str(TESTS)),
        ("test", "rules", str(FAULT_TESTS)),
    ):
        done = subprocess.run(
            [str(PROMTOOL), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
