"""Restarts services of the stack that stopped by themselves, and reports them in the summary."""

import re
from pathlib import Path

from stack.local import Stack
from tests.support import summary

ERRORS_SHOWN = 5
ERROR = re.compile(r" ERROR | FATAL |OutOfMemory|SIGSEGV|SIGBUS")


def restart_stopped_services(stack: Stack, during: str) -> None:
    """Restarts every stopped service. Adds its exit code and last errors to the summary.

    during: what ran when the service stopped, for the summary.
    """
    stopped = [service for service in stack.services.values() if not service.alive()]
    for service in stopped:
        # If only the output of a run is kept, it must say why the service stopped.
        summary.LINES.append(
            f"{service.name} stopped during {during}, exit code {service.exit_code};"
            " its last errors:"
        )
        summary.LINES.extend(f"  {line}" for line in _errors(service.log))
    if stopped:
        stack.start()


def _errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return [line for line in lines if ERROR.search(line)][-ERRORS_SHOWN:]
