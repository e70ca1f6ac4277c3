"""Finds a Java installation that Kafka, Cassandra and Flink run on."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from liveprofile.errors import ServiceError

VERSION = 17  # Cassandra 5.0 runs on 11 and 17, Flink 2.2 on 17 and 21


def _version(home: Path) -> int | None:
    release = home / "release"
    match = release.is_file() and re.search(r'JAVA_VERSION="(\d+)', release.read_text())
    return int(match.group(1)) if match else None


def home(program: str = "java") -> Path:
    """The folder of a Java 17: JAVA_HOME, else the one on the PATH, else one in /usr/lib/jvm.

    program: what it must have, such as "javac". Raises ServiceError that lists the other versions
    found.
    """
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(Path(os.environ["JAVA_HOME"]))
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path).resolve().parents[1])
    candidates += sorted(Path("/usr/lib/jvm").glob("*"))
    versions = {candidate: _version(candidate) for candidate in candidates}
    for candidate, version in versions.items():
        if version == VERSION and (candidate / "bin" / program).is_file():
            return candidate
    others = ", ".join(f"{path} is {version}" for path, version in versions.items() if version)
    raise ServiceError(
        f"no Java {VERSION} with {program} ({others or 'no Java at all'}): install it or set"
        " JAVA_HOME"
    )
