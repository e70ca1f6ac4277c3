"""`liveprofile demo`: replays real purchases through the whole pipeline and shows the result."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import JsonCall, print_json


def demo(
    call: JsonCall,
    exit_at_end: Annotated[bool, typer.Option("--exit")] = False,
    root: Path | None = None,
) -> None:
    """Start the local stack, replay a year of real purchases, and show profiles and risk flags.

    The demo uses its own topics, tables and job, and recreates them on each run. Everything keeps
    running, so that other commands can read it, and the console, which opens if there is a display.
    With --json the last line is a summary. Exit code 1 if there is no profile or no flag, or if a
    record is not accounted for.

    Example: `liveprofile demo`

    Options:
    exit_at_end: Stop the stack at the end (for scripts).
    root FOLDER: Folder of the stack. Default: .stack/run.
    """
    from rich.console import Console

    from cli.demo.run import run
    from cli.demo.view import WIDTH
    from stack import DEFAULT_ROOT
    from stack.local import Stack

    # The printed data is not mark-up: Rich must not interpret mark-up or emoji codes in it.
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    stack = Stack(root or DEFAULT_ROOT)
    try:
        summary = run(stack, console, stays=not exit_at_end)
    finally:
        if exit_at_end:
            stack.stop()
    if call.json:
        print_json(summary)
    if not summary["ok"]:
        raise typer.Exit(1)
