"""Temporary views, planned once."""

from __future__ import annotations

from pyflink.table import TableEnvironment


def create_view(t_env: TableEnvironment, name: str, query: str) -> None:
    """Creates a temporary view that keeps the planned query.

    CREATE VIEW keeps the text, which the planner parses again for each view and sink above it.
    """
    t_env.create_temporary_view(name, t_env.sql_query(query))
