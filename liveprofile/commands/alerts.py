"""`liveprofile alerts`: the risk alerts, for a person to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveprofile.commands.common import ConfigOption, JsonOption, print_json, read_settings, utc

if TYPE_CHECKING:
    from liveprofile.kafka import Record


def alerts(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then wait for new ones; end with Ctrl-C.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="The last N that are there; 0: all.", metavar="N")
    ] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print the risk alerts, each once: when, who, why, and what to do."""
    from liveprofile.kafka import follow_topic, ranges, read_topic

    settings = read_settings(config)
    topic = settings.topics.alerts
    held = ranges(settings, topic)
    seen: set[str] = set()
    present = sorted(unique(read_topic(settings, topic, held), seen), key=lambda a: _time_ms(a))
    for alert in present[-limit:] if limit else present:
        _print(alert, json)
    if not follow:
        if not present and not json:
            typer.echo("no alerts", err=True)
        return
    starts = {partition: part.end for partition, part in held.items()}
    for alert in unique(follow_topic(settings, topic, starts), seen):
        _print(alert, json)


def unique(records: Iterable[Record], seen: set[str]) -> Iterator[dict[str, Any]]:
    """The alerts among the records, each id once: delivery is at least once. Grows `seen`."""
    import orjson

    for record in records:
        try:
            alert = orjson.loads(record.value or b"")
            alert_id = alert["id"]
            _time_ms(alert)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            typer.echo(
                f"{record.topic}/{record.partition} offset {record.offset} is no alert", err=True
            )
            continue
        if alert_id not in seen:
            seen.add(alert_id)
            yield alert


def sentence(alert: dict[str, Any]) -> str:
    """2017-11-26 01:05:00  high  user 42  UNUSUAL_BEHAVIOUR: ... -> limit_trading"""
    data = alert.get("data") or {}
    return (
        f"{utc(_time_ms(alert))}  {data.get('severity', '?'):<8}  user {alert.get('subject', '?')}"
        f"  {data.get('reason', '?')}: {data.get('message', '')}  -> {data.get('action', '?')}"
    )


def _time_ms(alert: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)


def _print(alert: dict[str, Any], json: bool) -> None:
    print_json(alert) if json else typer.echo(sentence(alert))
