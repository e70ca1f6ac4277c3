"""Writes the file that repeats liveprofile.rows: python -m tests.support.generators.schema_file."""

import sys

from liveprofile.resources import ROOT
from liveprofile.rows import TABLES
from liveprofile.storage.schema import CREATE_KEYSPACE

ABOUT = """\
-- The keyspace of Liveprofile, from liveprofile/rows, written by `python -m
-- tests.support.generators.schema_file`. {keyspace}, {replication} and {dim} stand for settings.
--
-- Each write of a row about a user has a TTL and USING TIMESTAMP (window end in microseconds +
-- revision of the model or its deployment, or the event's time). A replay writes the same cells
-- again, and the last window wins, not the last arrival.
"""
FILE = ROOT / "schemas" / "cassandra.cql"


def text() -> str:
    """What the file contains."""
    described = (each.describe() for each in TABLES.values())
    return "\n".join((ABOUT, f"{CREATE_KEYSPACE};\n", *described))


def main() -> None:
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")


if __name__ == "__main__":
    main()
