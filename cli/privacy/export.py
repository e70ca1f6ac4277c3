"""`liveprofile privacy export`: all that is known about a person in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    UserArgument,
    print_fields,
    print_json,
    read_settings,
)


def export(
    user: UserArgument,
    out: Annotated[Path, typer.Option()],
    topics: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write all that is stored about a user to one JSON file, which only its owner can read.

    Each row has its table, its write time and its expiry. The file is about all ids of the person
    (`liveprofile identity merge`). Exit code 1, and no file, if nothing is stored.

    Example: `liveprofile privacy export 42 --out 42.json`

    Options:
    out FILE: New file (JSON).
    topics: Also the records in Kafka. Reads whole topics.
    """
    from datetime import UTC, datetime

    from liveprofile.feeds.users import read_merges
    from liveprofile.identity.forgotten import of_persons
    from liveprofile.kafka.records import read_topic
    from liveprofile.privacy.export import (
        ExportFile,
        as_json,
        private_file,
        table_rows,
        user_records,
    )
    from liveprofile.privacy.places import TABLES, TOPICS
    from liveprofile.privacy.user_keys import read_user_keys
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    ids = of_persons(read_merges(settings), [user])
    now = datetime.now(UTC)
    with private_file(out) as file, open_session(settings.cassandra) as session:
        about = {
            "user_id": user,
            "ids": ids,
            "exported_at": as_json(now),
            "keyspace": settings.cassandra.keyspace,
            "topics_included": topics,
        }
        result = ExportFile(file, about)
        keys = [read_user_keys(session, each) for each in ids]
        for name, table in TABLES.items():
            limits = {"what": table.what, "limit": table.limit}
            rows = (row for each in keys for row in table_rows(session, name, table, each, now))
            result.add(name, limits, (row._asdict() for row in rows), "rows")
        for setting, topic in TOPICS.items() if topics else ():
            name = getattr(settings.topics, setting)
            records = user_records(read_topic(settings, name), ids)
            result.add(name, topic._asdict(), records, "records")
        result.end()
        if not any(result.counts.values()):
            typer.echo(f"liveprofile: nothing is stored about user {user!r}", err=True)
            raise typer.Exit(1)
    counts = {name: count for name, count in result.counts.items() if count}
    if json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "stored": counts})
    else:
        print_fields(counts | {"file": out})
