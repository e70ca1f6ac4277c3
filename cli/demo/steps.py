"""Prints a line when a step of the demo is done and turns its errors into one-line messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from liveprofile.errors import LiveprofileError, ServiceError


class Step:
    """A running step. done: the line to print when it is done; None prints nothing."""

    def __init__(self, done: str | None):
        self.done = done


class Steps:
    """Runs steps one after the other. seconds: the duration of each step, by name."""

    def __init__(self, console: Console):
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(
        self, name: str, doing: str, done: str | None, log: Path, spinner: bool = True
    ) -> Iterator[Step]:
        """Runs the body of the `with` statement as one step.

        doing: shown while the step runs. log: named in the error message.
        Raises errors of services and files as a LiveprofileError of the same class whose message is
        one line with the step and the log.
        """
        step, started_s = Step(done), time.monotonic()
        try:
            with self._console.status(doing) if spinner else nullcontext():
                yield step
        except LiveprofileError as error:
            raise type(error)(one_line(error, doing, log)) from None
        except OSError as error:
            raise ServiceError(one_line(error, doing, log)) from None
        duration_s = self.seconds[name] = round(time.monotonic() - started_s, 1)
        if step.done:
            self._console.print(f"✓ {step.done} ({duration_s:.1f} s)", soft_wrap=True)


def one_line(error: Exception, doing: str, log: Path) -> str:
    """Formats an error as `<step>: <first line>; log: <path>`, unless the line names a log."""
    line = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
    return f"{doing}: {line}" + ("" if ".log" in line else f"; log: {log}")
