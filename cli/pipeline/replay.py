"""`liveprofile events replay`: sends a file of events to the input topic."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from cli.progress import count_bar, print_line
from liveprofile.settings import Settings


def replay(
    file: Path,
    mapping: Path | None = None,
    topic: Annotated[str | None, typer.Option(callback=require_topic_name)] = None,
    rate: float | None = None,
    speed: float | None = None,
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    close_windows: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send a file of events to the input topic, keyed by user.

    Example: `liveprofile events replay shop.csv --mapping shop.toml --close-windows`

    Options:
    file: CSV, Parquet or JSON lines.
    mapping FILE: Mapping of the file's columns to event fields (TOML, see mappings/). Default: FILE
        holds events as JSON lines.
    topic: Topic. Default: topics.events.
    rate: Events per second. Default: as fast as Kafka accepts.
    speed: Speed relative to the event times; 1 is real time.
    limit: Maximum number of events.
    close_windows: Send heartbeats after the last event to close the open windows. Events for these
        windows that are sent later are late.
    """
    from liveprofile.ingest.replay import replay as send
    from liveprofile.ingest.replay import rows_estimate

    settings = read_settings(config)
    expected = rows_estimate(file, mapping)
    with count_bar(f"sending {file.name}", min(expected, limit or expected), "events") as advance:
        result = send(
            file,
            mapping,
            settings,
            topic=topic,
            rate=rate,
            speed=speed,
            limit=limit,
            close_windows=close_windows,
            progress=advance,
        )
    if close_windows and not result.closed:
        print_line(
            "the last windows stay open: they end in the future. Events and heartbeats that are"
            " sent then will close them (`liveprofile events heartbeat`)"
        )
    if _is_history(settings, result.last_event_time_ms):
        print_line(
            "these events are history: a job without scoring.replay = true scores them as if they"
            " happened now"
        )
    if json:
        print_json(result._asdict())
    else:
        events_per_s = result.sent / result.seconds if result.seconds else 0
        typer.echo(f"{result.sent} events sent in {result.seconds:.1f} s ({events_per_s:,.0f}/s)")


def require_topic_name(name: str | None) -> str | None:
    """Callback of an option with a topic: Kafka would answer for a wrong name only in the end."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise typer.BadParameter(f"{name!r}: a topic has letters, digits and the characters . _ -")
    return name


def _is_history(settings: Settings, last_event_time_ms: int | None) -> bool:
    """Whether the events are too old for the job of these settings to trust their times."""
    scoring = settings.scoring
    if last_event_time_ms is None or scoring.replay or not scoring.enabled:
        return False
    return last_event_time_ms < time.time() * 1_000 - scoring.max_delay_ms
