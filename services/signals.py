"""Ends a process that follows a topic when it is asked to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    """What works until `stop` is called, also from a signal handler."""

    def stop(self) -> None: ...


@contextmanager
def stop_on_signals(process: Stoppable) -> Iterator[None]:
    """Calls `process.stop` at SIGTERM and SIGINT (Ctrl-C). For the main thread."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.signal(each, lambda *_: process.stop()) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
