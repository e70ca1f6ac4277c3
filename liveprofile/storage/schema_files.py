"""Writes the files that repeat liveprofile.rows: python -m liveprofile.storage.schema_files."""

import sys
from pathlib import Path

from liveprofile.resources import ROOT
from liveprofile.rows import TABLES
from liveprofile.rows.operations import SCHEMA_MIGRATION
from liveprofile.storage.migrations import FOLDER
from liveprofile.storage.schema import CREATE_KEYSPACE

ABOUT = """\
-- The keyspace of Liveprofile: what the migrations in schemas/migrations/ add up to. Written by
-- `python -m liveprofile.storage.schema_files` from liveprofile/rows. {keyspace}, {replication} and
-- {dim} stand for settings.
--
-- Each write of a row about a user has a TTL and USING TIMESTAMP (window end in microseconds +
-- revision of the model or its deployment, or the event's time). A replay writes the same cells
-- again, and the last window wins, not the last arrival.
"""
FIRST = "-- All tables, which schemas/cassandra.cql describes.\n\n"


def texts() -> dict[Path, str]:
    """What each file contains."""
    tables = [each for each in TABLES.values() if each is not SCHEMA_MIGRATION]
    creates = [text for table in tables for text in table.create()]
    described = (each.describe() for each in TABLES.values())
    return {
        ROOT / "schemas" / "cassandra.cql": "\n".join((ABOUT, f"{CREATE_KEYSPACE};\n", *described)),
        # From 1.0.0 on, this file stays as it is, and a change is a migration of its own.
        FOLDER / "0001_tables.cql": FIRST + "\n\n".join(f"{text};" for text in creates) + "\n",
    }


def main() -> None:
    for file, text in texts().items():
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
