"""Finds a Java installation that Kafka, Cassandra and Flink run on."""

import os
import re
import shutil
from pathlib import Path

from liveprofile.errors import ServiceError

VERSION = "17"  # Cassandra 5.0 runs on 11 and 17, Flink 2.2 on 17 and 21


def home(program: str = "java") -> Path:
    """The folder of a Java 17: JAVA_HOME, else the one on the PATH, else one in /usr/lib/jvm.

    program: what it must have, such as "javac". Raises ServiceError that lists the other versions
    found.
    """
    on_path = shutil.which("java")
    named = [os.environ.get("JAVA_HOME"), on_path and Path(on_path).resolve().parents[1]]
    others = []
    for folder in [*map(Path, filter(None, named)), *sorted(Path("/usr/lib/jvm").glob("*"))]:
        release = folder / "release"
        text = release.read_text() if release.is_file() else ""
        version = re.search(r'JAVA_VERSION="(\d+)', text)
        if version and version[1] == VERSION and (folder / "bin" / program).is_file():
            return folder
        if version:
            others.append(f"{folder} is {version[1]}")
    raise ServiceError(
        f"no Java {VERSION} with {program} ({', '.join(others) or 'no Java at all'}): install it or"
        " set JAVA_HOME"
    )
