"""Tables for the terminal, and the same tables unwrapped for a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# Wider than any row: a table is as wide as its content.
UNLIMITED_WIDTH = 1_000_000
UNWRAPPED = {"id", "flag", "time", "severity", "window end", "as of", "start", "churn"}


def new_table(*columns: str, title: str | None = None) -> Table:
    """A table with these columns; `>` before a name right-aligns it.

    On a terminal long texts fold; ids, numbers and times do not.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        plain = name.lstrip(">")
        table.add_column(
            plain,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or plain in UNWRAPPED,
        )
    return table


def print_tables(*tables: Table) -> None:
    """Prints tables on stdout. Without a terminal each row is one line, however long it is."""
    from rich.console import Console

    # Ids and messages are data: Rich must not interpret mark-up or emoji codes in them.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    for table in tables:
        console.print(table)
