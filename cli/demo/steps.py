"""The demo's steps: a line when each is done, one clear line if it fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from liveprofile.errors import LiveprofileError, ServiceError


class Step:
    """What is said when the step is done; None: nothing."""

    def __init__(self, done: str | None):
        self.done = done


class Steps:
    """`seconds` holds how long each step took, by name."""

    def __init__(self, console: Console):
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(
        self, name: str, doing: str, done: str | None, log: Path, spinner: bool = True
    ) -> Iterator[Step]:
        """One step. What goes wrong with services or files leaves it as one line that names the
        step and the log: a LiveprofileError of the same kind."""
        step, started_s = Step(done), time.monotonic()
        try:
            with self._console.status(doing) if spinner else nullcontext():
                yield step
        except LiveprofileError as error:
            raise type(error)(one_line(error, doing, log)) from None
        except OSError as error:
            raise ServiceError(one_line(error, doing, log)) from None
        took_s = self.seconds[name] = round(time.monotonic() - started_s, 1)
        if step.done:
            self._console.print(f"✓ {step.done} ({took_s:.1f} s)", soft_wrap=True)


def one_line(error: Exception, doing: str, log: Path) -> str:
    """The error's first line, with the step before it and the log behind it."""
    line = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
    return f"{doing}: {line}" + ("" if ".log" in line else f"; log: {log}")
