"""`liveprofile serve console`: the console in a browser."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, config_file, print_json
from liveprofile.settings import load


def console(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the console for analysts until Ctrl-C (docs/console.md).

    Keys, roles, TLS and limits are those of `liveprofile serve api`. Starts without Cassandra. With
    --json, the first line is {"url": ...}.

    Example: `liveprofile serve console --port 8072`

    Options:
    host ADDRESS: Setting serve.host.
    port: Setting serve.console_port; 0: any free port.
    """
    from cli.explain.launch import open_explainer
    from console.server import run_console

    changes: dict[str, Any] = {"host": host, "console_port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = load(config_file(config), serve=given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    run_console(settings, started, open_explainer(settings, config_file(config)))
