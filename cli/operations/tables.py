"""Tables of rows that are ready to print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cli.tables import new_table, print_tables


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table. columns: as `new_table` takes them."""
    table = new_table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    print_tables(table)
