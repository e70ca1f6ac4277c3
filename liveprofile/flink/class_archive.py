"""Archives the classes of Flink's JVMs, which start with a quarter less CPU time then.

Run as `python -m liveprofile.flink.class_archive`, after the jars. This is Java's class data
sharing: a JVM ignores an archive of other jars (path, size or time) and loads classes as usual.
"""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

from liveprofile.flink import jars, launcher
from liveprofile.flink.submission import code_archive, run_client
from liveprofile.resources import ROOT


def build() -> None:
    """Plans and starts the profile job in one JVM, which writes the archive when it ends.

    Raises ServiceError.
    """
    jars.require()
    archive, (loader, planner) = launcher.CLASS_ARCHIVE, launcher.planner_jars()
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    # Both files are renamed once they are complete: part of one would stop each later JVM.
    with tempfile.TemporaryDirectory(dir=archive.parent) as name:
        folder = Path(name)
        with zipfile.ZipFile(loader) as content:
            Path(content.extract("flink-table-planner.jar", folder)).rename(planner)
        settings = folder / "liveprofile.toml"
        # Nothing answers there: the job starts and reads nothing.
        settings.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
        options = {"execution.target": "local", "rest.port": 0, "restart-strategy.type": "disable"}
        run_client(
            folder,
            options | {"execution.checkpointing.dir": (folder / "checkpoints").as_uri()},
            ROOT / "jobs" / "profile_job.py",
            ["--config", str(settings)],
            sys.executable,
            [code_archive(folder / "liveprofile.zip")],
            jvm=[f"-XX:ArchiveClassesAtExit={folder / archive.name}"],
            # Settings of the environment would take precedence over those of the file.
            environment={k: v for k, v in os.environ.items() if not k.startswith("LIVEPROFILE_")},
        )
        (folder / archive.name).rename(archive)


if __name__ == "__main__":
    build()
