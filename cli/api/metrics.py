"""`liveprofile serve metrics`: what an operator watches, for Prometheus."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, config_file, print_json
from liveprofile.settings import load


def metrics(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    audit_state: Path | None = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the figures of `liveprofile job status` and more as Prometheus metrics until Ctrl-C.

    docs/metrics.md lists them. Starts without Kafka, Cassandra and Flink, and reads each when it
    is there. With --json, the first line is {"url": ...}.

    Example: `liveprofile serve metrics --port 8071`

    Options:
    host ADDRESS: Setting metrics.host.
    port: Setting metrics.port; 0: any free port.
    audit_state FILE: The file of `liveprofile events audit --state`: adds how far the audit has
        come.
    """
    from monitoring.server import serve_metrics

    changes: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = load(config_file(config), metrics=given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    serve_metrics(settings, audit_state, started)
