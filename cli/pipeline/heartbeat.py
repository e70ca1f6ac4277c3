"""`liveprofile events heartbeat`: keeps event time moving on quiet partitions."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import ConfigOption, read_settings


def heartbeat(
    every: Annotated[float, typer.Option(min=0.1)] = 1.0,
    count: Annotated[int | None, typer.Option(min=1)] = None,
    config: ConfigOption = None,
) -> None:
    """Send a heartbeat to every partition of the input topic, again and again.

    A window closes when every partition has moved past its end, so a partition without events
    keeps all windows open. Run this service beside live traffic, not during a replay of history:
    a heartbeat carries the present time and closes all windows of the past.

    Once it has sent a heartbeat, an outage of Kafka does not end it: it reports the error and sends
    again.

    Example: `liveprofile events heartbeat --every 1`

    Options:
    every SECONDS: Time between two heartbeats.
    count: Stop after so many. Default: run until stopped.
    """
    from liveprofile.ingest.replay import ReplayProducer, send_heartbeats

    settings = read_settings(config)
    send_heartbeats(
        lambda: ReplayProducer(settings, settings.topics.events, lambda sent: None),
        every,
        count,
        lambda error: typer.echo(f"liveprofile: {error}; trying again", err=True),
    )
