"""`liveprofile demo`: real purchases through the whole path, with a tour of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import JsonOption, print_json


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop everything after the tour (for scripts).")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=False, help="Folder of the stack. Default: .stack/run."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show it work: start the stack, replay real purchases, tour the profiles and flags.

    Has topics, tables and a job of its own and starts them over each time. Leaves all of it
    running, for the other commands to look at. With --json the last line is a summary. Exit code 1
    if there is no profile or no flag, or if a record is not accounted for.
    """
    from rich.console import Console

    from cli.demo.run import run
    from cli.demo.view import WIDTH
    from stack import DEFAULT_ROOT
    from stack.local import Stack

    # What it prints is data or ours: nothing in it is mark-up, an emoji code or a number to colour.
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    stack = Stack(root or DEFAULT_ROOT)
    try:
        summary = run(stack, console, stays=not leave)
    finally:
        if leave:
            stack.stop()
    if json:
        print_json(summary)
    if not summary["ok"]:
        raise typer.Exit(1)
