"""Archives the classes that Flink's JVMs load, so that they start with a quarter less CPU time.

Run as `python -m liveprofile.flink.class_archive`, after the jars. A JVM ignores an archive of
other jars (path, size or time) and loads its classes as usual.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from liveprofile.errors import ServiceError
from liveprofile.flink import jars, launcher
from liveprofile.flink.rest import failure_reason
from liveprofile.flink.submission import code_archive
from liveprofile.resources import ROOT

TIMEOUT_S = 600


def build() -> None:
    """Plans and starts the profile job in one JVM, which writes the archive when it ends.

    Raises ServiceError.
    """
    jars.require()
    archive, python = launcher.CLASS_ARCHIVE, sys.executable
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    (loader,) = (jars.pyflink_home() / "lib").glob("flink-table-planner-loader-*.jar")
    with zipfile.ZipFile(loader) as content:
        content.extract(launcher.PLANNER.name, launcher.PLANNER.parent)
    with tempfile.TemporaryDirectory(dir=archive.parent) as name:
        folder = Path(name)
        checkpoints = {"execution.checkpointing.dir": (folder / "checkpoints").as_uri()}
        options = {"execution.target": "local", "rest.port": 0, "restart-strategy.type": "disable"}
        launcher.write_configuration(folder / "conf", options | checkpoints, client=True)
        launcher.link_jars(folder / "lib")
        (folder / "tmp").mkdir()
        # Nothing answers there: the job starts and reads nothing.
        (folder / "liveprofile.toml").write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
        java, *arguments = launcher.client_command(folder)
        done = subprocess.run(
            [
                *(java, f"-XX:ArchiveClassesAtExit={folder / archive.name}", *arguments),
                *("run", "--python", ROOT / "jobs" / "profile_job.py"),
                *("--pyExecutable", python, "--pyClientExecutable", python),
                *("--pyFiles", code_archive(folder / "liveprofile.zip")),
                *("--config", folder / "liveprofile.toml"),
            ],
            capture_output=True,
            text=True,
            # Settings of the environment would take precedence over those of the file.
            env={k: v for k, v in os.environ.items() if not k.startswith("LIVEPROFILE_")}
            | launcher.environment(folder),
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode or not (folder / archive.name).is_file():
            reason = failure_reason(done.stdout + done.stderr)
            raise ServiceError(f"no archive of classes was written: {reason}")
        (folder / archive.name).rename(archive)


if __name__ == "__main__":
    build()
