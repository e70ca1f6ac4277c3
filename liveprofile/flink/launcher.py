"""Starts Flink's JVMs without Flink's scripts, which run four more JVMs each before the real one.

The jars are those of the pip package and the Kafka connector.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from liveprofile.errors import ServiceError
from liveprofile.flink import java
from liveprofile.flink.jars import JARS
from liveprofile.resources import ROOT

SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# A client sends its whole configuration along with a job, where it beats the cluster's.
FOLDERS_OF_THE_CLUSTER = {
    "execution.checkpointing.dir": "checkpoints",
    "execution.checkpointing.savepoint-dir": "savepoints",
    "state.changelog.dstl.dfs.base-path": "changelog",
}
CPU_CONFIG = ROOT / "flink-conf" / "config.yaml"
GPU_CONFIG = ROOT / "flink-conf" / "config.gpu.yaml"
LOGGING = ROOT / "flink-conf" / "log4j-console.properties"
CLIENT_LOGGING = ROOT / "flink-conf" / "log4j-cli.properties"


def pyflink_home() -> Path:
    """The folder of the pip package, which holds bin/, lib/, opt/ and plugins/."""
    spec = find_spec("pyflink")  # finds it without the seconds that an import takes
    if spec is None or spec.origin is None:
        raise ServiceError("apache-flink is not installed in this Python: run `make venv`")
    return Path(spec.origin).parent


def library(folder: Path) -> Path:
    """Fills `folder` with links to Flink's jars, flink-python and the Kafka connector.

    Both belong into the cluster's lib: given per job, their classes are loaded anew at each
    submission and leak until the TaskManager's metaspace is full.
    """
    home = pyflink_home()
    wanted = [
        *(home / "lib").glob("*.jar"),
        *(home / "opt").glob("flink-python-*.jar"),
        *(JARS / "flink").glob("*.jar"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.iterdir()) - {folder / jar.name for jar in wanted}:
        stale.unlink()
    for jar in wanted:
        link = folder / jar.name
        if link.resolve() != jar.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(jar)
    return folder


def flink_options(gpu: bool = False) -> dict[str, Any]:
    """flink-conf/config.yaml, for `gpu` with config.gpu.yaml over it."""
    options = yaml.safe_load(CPU_CONFIG.read_text())
    return options | yaml.safe_load(GPU_CONFIG.read_text()) if gpu else options


def write_configuration(folder: Path, overrides: dict[str, Any], client: bool = False) -> None:
    """config.yaml (flink-conf/config.yaml with `overrides`) and the log4j files into `folder`.

    `client`: for `flink run`, which leaves the cluster its own folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = flink_options()
    if client:
        for key in FOLDERS_OF_THE_CLUSTER:
            del configuration[key]
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration | overrides, width=10_000))
    for source in (LOGGING, CLIENT_LOGGING):
        shutil.copyfile(source, folder / source.name)


def environment(folder: Path) -> dict[str, str]:
    """What Flink's JVMs and Python workers read; `folder` holds conf/, lib/ and tmp/."""
    home = pyflink_home()
    return {
        "JAVA_HOME": str(java.home()),
        "FLINK_HOME": str(home),
        "FLINK_BIN_DIR": str(home / "bin"),
        "FLINK_OPT_DIR": str(home / "opt"),
        "FLINK_PLUGINS_DIR": str(home / "plugins"),
        "FLINK_CONF_DIR": str(folder / "conf"),
        "FLINK_LIB_DIR": str(folder / "lib"),
        "FLINK_LOG_DIR": str(folder),
        "TMPDIR": str(folder / "tmp"),
    }


def java_command(
    folder: Path, main_class: str, *jvm: str, log4j: str = "console", extra_jar: Path | None = None
) -> list[str]:
    """`java` with Flink's class path and options from `folder`; `log4j`: "console" or "cli"."""
    # flink-dist last, as Flink's scripts do: what others bring must win over what it holds.
    jars = sorted((folder / "lib").glob("*.jar"), key=lambda jar: ("flink-dist" in jar.name, jar))
    options = yaml.safe_load((folder / "conf" / "config.yaml").read_text())["env.java.opts.all"]
    return [
        str(java.home() / "bin" / "java"),
        *jvm,
        *options.split(),
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-Dlog4j.configurationFile={folder / 'conf' / f'log4j-{log4j}.properties'}",
        "-classpath",
        ":".join(str(jar) for jar in [*([extra_jar] if extra_jar else []), *jars]),
        main_class,
    ]


def client_command(folder: Path) -> list[str]:
    """The command behind `flink`, tuned for a JVM that lives for seconds."""
    return java_command(
        folder, "org.apache.flink.client.cli.CliFrontend", *SHORT_LIVED, log4j="cli"
    )
