"""Services that ended though nobody ended them: told at the end of the run, and started again."""

from __future__ import annotations

import re
from pathlib import Path

from stack.local import Stack
from tests.support import summary

ERRORS_SHOWN = 5
ERROR = re.compile(r" ERROR | FATAL |OutOfMemory|SIGSEGV|SIGBUS")


def start_again(stack: Stack, lost_in: str) -> None:
    """Where nothing but the output is left, that must say why a service was not there."""
    lost = [service for service in stack.services.values() if not service.alive()]
    for service in lost:
        said = f"exit code {service.exit_code}; its last errors:"
        summary.LINES.append(f"{service.name} ended in {lost_in}, {said}")
        summary.LINES.extend(f"  {line}" for line in _errors(service.log))
    if lost:
        stack.start()


def _errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return [line for line in lines if ERROR.search(line)][-ERRORS_SHOWN:]
