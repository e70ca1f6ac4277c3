"""`liveprofile setup`: creates topics and tables, without a job."""

from __future__ import annotations

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings


def setup(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Create missing topics and tables, as `submit` does, but submit no job.

    What exists stays as it is. The account needs the right to create topics and a keyspace, so
    that the account of `submit` needs none.

    Example: `liveprofile setup`
    """
    from cli.pipeline.job_submission import create_tables, read_model_card
    from liveprofile.kafka.topics import create_topics

    settings = read_settings(config)
    card = read_model_card(settings)
    topics = create_topics(settings)
    create_tables(settings, card)
    keyspace = settings.cassandra.keyspace if settings.job.store == "cassandra" else None
    if json:
        print_json({"topics_created": topics, "keyspace": keyspace})
        return
    typer.echo(f"topics created: {', '.join(topics) or 'none, all exist'}")
    typer.echo(
        f"tables of keyspace {keyspace} exist" if keyspace else "no tables: job.store = none"
    )
