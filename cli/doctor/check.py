"""What a check is. Checks are pure functions of facts and settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from cli.doctor.facts import Facts
from liveprofile.settings import Settings

MAX_SKEW_MS = 2_000
UNIT_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Problem(NamedTuple):
    """What is wrong, and what the operator can do about it."""

    problem: str
    way_out: str


class Finding(NamedTuple):
    check: str
    problem: str
    way_out: str


class Check(NamedTuple):
    name: str
    service: Literal["kafka", "cassandra", "flink", "local"]
    run: Callable[[Facts, Settings], Iterator[Problem]]


def examine(
    checks: Iterable[Check], facts: Facts, settings: Settings
) -> tuple[list[Finding], list[str]]:
    """All findings, and the names of the checks that could not run.

    A service that does not answer is one finding; its other checks are skipped.
    """
    findings, skipped = [], []
    for name, service, run in checks:
        if name.endswith("reachable") or getattr(getattr(facts, service), "error", None) is None:
            findings += [Finding(name, *problem) for problem in run(facts, settings)]
        else:
            skipped.append(name)
    return findings, skipped


def skew(service: str, ahead_ms: int) -> Problem:
    relation = "ahead of" if ahead_ms > 0 else "behind"
    return Problem(
        f"this machine's clock is {abs(ahead_ms) / 1_000:.1f} s {relation} that of {service}",
        "synchronise both clocks, for example with chrony",
    )


def parse_bytes(text: str) -> int | None:
    """The bytes of a size such as 64KiB, 512 mb or 1g; None if it is none."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)i?b?", text.strip().lower())
    return int(match[1]) * UNIT_BYTES[match[2]] if match else None
