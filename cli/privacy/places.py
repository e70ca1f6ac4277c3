"""`liveprofile privacy data-inventory`: where data is kept, how long, and by which setting."""

from __future__ import annotations

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from cli.operations.tables import print_table


def data_inventory(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all tables, topics and states with the time after which what they keep is gone.

    The times are those of the settings: a topic that exists keeps what it was created with
    (`kafka-configs`), a row the TTL that it was written with. docs/privacy.md has the places that
    Liveprofile does not clear, such as savepoints and backups. Exit code 1: a place with data about
    users has no limit.

    Example: `liveprofile privacy data-inventory` or `liveprofile privacy data-inventory --json`
    """
    from liveprofile.privacy.retention import retention, unlimited
    from liveprofile.units import DAY_MS

    settings = read_settings(config)
    kept = list(retention(settings))
    if json:
        for each in kept:
            print_json(each._asdict())
    else:
        print_table(
            "What is kept, and how long",
            ("kind", "place", "what", "users", "days", "by"),
            [
                (
                    each.kind,
                    each.place,
                    each.what,
                    "yes" if each.has_users else "no",
                    "no limit" if each.limit_ms is None else f"{each.limit_ms / DAY_MS:,.4g}",
                    each.setting,
                )
                for each in kept
            ],
        )
    if found := unlimited(settings):
        names = ", ".join(f"{each.place} ({each.setting})" for each in found)
        typer.echo(f"no limit: {names}", err=True)
        raise typer.Exit(1)
