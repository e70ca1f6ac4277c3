"""Downloads the jars of liveprofile/flink/pom.xml with Maven.

Run as `python3.11 -m liveprofile.flink.jars`. Uses only the standard library, because it runs
before the virtual environment exists.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from liveprofile.errors import ServiceError
from liveprofile.resources import STACK_FOLDER, sha256

JARS = STACK_FOLDER / "lib"
POM = Path(__file__).with_name("pom.xml")
PROFILES = ("kafka", "cassandra", "flink")


def _fingerprint() -> str:
    return sha256(POM)


def present(folder: Path = JARS) -> bool:
    """True if `folder` contains the jars of the present pom.xml."""
    marker = folder / ".complete"
    return marker.is_file() and marker.read_text() == _fingerprint()


def fetch(folder: Path = JARS) -> None:
    """Downloads the jars into `folder`/kafka, /cassandra and /flink unless they are complete.

    Raises ServiceError with Maven's output if the download fails.
    """
    if present(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for profile in PROFILES:
        command = [
            "mvn",
            "--quiet",
            "--batch-mode",
            "--file",
            str(POM),
            "--activate-profiles",
            profile,
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={folder / profile}",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ServiceError(
                "mvn is not on the PATH: install Maven, or run `make venv` as root on Debian"
            ) from None
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
            raise ServiceError(f"Maven could not download the {profile} jars:\n{tail}")
    (folder / ".complete").write_text(_fingerprint())


def require(folder: Path = JARS) -> None:
    """Raises ServiceError if the jars are missing or belong to another version of pom.xml."""
    if not present(folder):
        raise ServiceError(
            f"the jars of liveprofile/flink/pom.xml are not in {folder}: run `make jars`"
        )


def main() -> int:
    try:
        fetch()
    except ServiceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
