"""Downloads the jars of liveprofile/flink/pom.xml with Maven, and builds that of jobs/java.

Run as `python -m liveprofile.flink.jars`, with the Python that has apache-flink.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from liveprofile.errors import ServiceError
from liveprofile.flink import java
from liveprofile.resources import ROOT, STACK_FOLDER, sha256

JARS = STACK_FOLDER / "lib"
POM = Path(__file__).with_name("pom.xml")
PROFILES = ("kafka", "cassandra", "flink")
SOURCES = ROOT / "jobs" / "java"
FUNCTIONS = "liveprofile-functions.jar"  # the classes of SOURCES, in the folder `flink`


def pyflink_home() -> Path:
    """The folder of the pip package with bin/, lib/, opt/ and plugins/. Raises ServiceError."""
    spec = find_spec("pyflink")  # an import would take seconds
    if spec is None or spec.origin is None:
        raise ServiceError("apache-flink is not installed in this Python: run `make venv`")
    return Path(spec.origin).parent


def _is_current(marker: Path, fingerprint: str) -> bool:
    return marker.is_file() and marker.read_text() == fingerprint


def _source_fingerprint() -> str:
    sources = sorted(SOURCES.glob("*.java"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def build(target: Path) -> None:
    """Compiles SOURCES against the jars of apache-flink. Raises ServiceError with the errors."""
    bin_folder = java.home("javac") / "bin"
    class_path = ":".join(map(str, (pyflink_home() / "lib").glob("*.jar")))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".classes-") as folder:
        classes, jar = Path(folder, "classes"), Path(folder, "functions.jar")
        # Flink reads the names of parameters.
        _run(
            [
                bin_folder / "javac",
                "-parameters",
                "-Xlint:all,-serial,-path",
                "-Werror",
                "-proc:none",
                "-d",
                classes,
                "-classpath",
                class_path,
                *SOURCES.glob("*.java"),
            ],
            error="javac failed",
        )
        make_jar = [bin_folder / "jar", "--create", "--file", jar, "-C", classes, "."]
        _run(make_jar, error="jar failed")
        jar.rename(target)


def fetch(folder: Path = JARS) -> None:
    """Fills `folder`/kafka, /cassandra and /flink unless they are complete. Raises ServiceError."""
    if not _is_current(JARS / ".complete", sha256(POM)):
        _download(folder)
    build_functions(folder)


def build_functions(folder: Path = JARS) -> None:
    """Builds `folder`/flink/FUNCTIONS unless it is that of SOURCES. Raises ServiceError."""
    fingerprint = _source_fingerprint()
    if not _is_current(folder / ".functions", fingerprint):
        build(folder / "flink" / FUNCTIONS)
        (folder / ".functions").write_text(fingerprint)


def _download(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for profile in PROFILES:
        _run(
            [
                "mvn",
                "--quiet",
                "--batch-mode",
                "--file",
                POM,
                "--activate-profiles",
                profile,
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={folder / profile}",
            ],
            error=f"Maven could not download the {profile} jars",
        )
    (folder / ".complete").write_text(sha256(POM))


def _run(command: Sequence[str | Path], error: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ServiceError(
            f"{command[0]} is not on the PATH: install it, or run `make venv` as root on Debian"
        ) from None
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise ServiceError(f"{error}:\n{tail}")


def require() -> None:
    """Raises ServiceError if the jars are missing or belong to another version of the code."""
    if not _is_current(JARS / ".complete", sha256(POM)) or not _is_current(
        JARS / ".functions", _source_fingerprint()
    ):
        raise ServiceError(
            f"the jars of liveprofile/flink/pom.xml and jobs/java are not in {JARS}: run"
            " `make jars`"
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
