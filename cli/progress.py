"""Progress of long commands, on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from liveprofile.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

LINE_INTERVAL_S = 30.0


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows a progress bar per stage; without a terminal, a line at most every 30 s."""
    finished, printed_s, stages = set(), -LINE_INTERVAL_S, {}
    # torchrun starts several processes: only the first prints.
    with _bars(quiet=os.environ.get("RANK", "0") != "0") as bars:

        def on_progress(stage: str, done: int, total: int) -> None:
            nonlocal printed_s
            if not bars.disable:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage, total=total)
                bars.update(stages[stage], completed=done, total=total)
                return
            now_s = time.monotonic()
            finishes = done == total and stage not in finished
            if finishes or now_s - printed_s >= LINE_INTERVAL_S:
                printed_s = now_s
                finished.update({stage} if finishes else ())
                bars.console.print(f"{stage} {done}/{total}", highlight=False)

        yield on_progress


@contextmanager
def count_bar(description: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Shows a transient bar with a count and yields the function that advances it.

    total: the expected count; 0 if unknown. Without a terminal nothing is shown.
    """
    with _bars(transient=True) as bars:
        task = bars.add_task(f"{description} {unit}", total=total)
        yield lambda count: bars.advance(task, count)


def _bars(quiet: bool = False, transient: bool = False) -> Bars:
    """Bars on stderr, which a terminal shows."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    disable = not console.is_terminal
    return bars.Progress(*columns, console=console, transient=transient, disable=disable)


def print_line(line: str) -> None:
    """Prints a line on stderr, above the bars."""
    typer.echo(line, err=True)
