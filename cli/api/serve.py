"""`liveprofile serve api`: the read API."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, config_file, print_json
from liveprofile.settings import load


def api(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    quiet: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve profiles and alerts over HTTP until Ctrl-C (docs/api.md).

    Starts without Cassandra and answers 503 until it is there. With --json, the first line is
    {"url": ...}. The log goes to stderr, a line per request.

    Example: `liveprofile serve api --port 8070`

    Options:
    host ADDRESS: Setting serve.host.
    port: Setting serve.port; 0: any free port.
    quiet: Log warnings only.
    """
    from cli.explain.launch import open_explainer
    from serve.server import serve as run

    changes: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = load(config_file(config), serve=given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("serve").setLevel(logging.WARNING if quiet else logging.INFO)

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    run(settings, started, open_explainer(settings, config_file(config)))
