"""Configuration and commands that start Flink's JVMs without Flink's scripts.

Each of Flink's scripts runs four short JVMs before the actual one. The jars come from the pip
package apache-flink and from the Kafka connector.
"""

import shutil
from pathlib import Path
from typing import Any

import yaml

from liveprofile.flink import java
from liveprofile.flink.jars import JARS, pyflink_home
from liveprofile.resources import ROOT, STACK_FOLDER

SHORT_LIVED_JVM_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Planning allocates gigabytes of short-lived objects: a large young generation saves an eighth of
# its time.
PLANNER_JVM_OPTIONS = (*SHORT_LIVED_JVM_OPTIONS, "-Xms1g", "-Xmn600m")
# A client submits its whole configuration with the job, and it overrides the cluster's. A client's
# configuration must therefore not contain the options below.
CLUSTER_FOLDER_OPTIONS = {
    "execution.checkpointing.dir": "checkpoints",
    "execution.checkpointing.savepoint-dir": "savepoints",
    "state.changelog.dstl.dfs.base-path": "changelog",
}
CPU_CONFIG = ROOT / "flink-conf" / "config.yaml"
GPU_CONFIG = ROOT / "flink-conf" / "config.gpu.yaml"
LOGGING = ROOT / "flink-conf" / "log4j-console.properties"
CLIENT_LOGGING = ROOT / "flink-conf" / "log4j-cli.properties"
CLASS_ARCHIVE = STACK_FOLDER / "class-archive" / "flink.jsa"  # of liveprofile.flink.class_archive


def planner_jars() -> tuple[Path, Path]:
    """The pip package's jar that contains the planner, and the planner's own that replaces it.

    An archive contains no classes of Flink's own class loaders, of which the former has one. The
    latter exists if `liveprofile.flink.class_archive` has written it, for this version of Flink.
    """
    (loader,) = (pyflink_home() / "lib").glob("flink-table-planner-loader-*.jar")
    return loader, CLASS_ARCHIVE.with_name(loader.name.replace("-loader", ""))


def link_jars(folder: Path) -> Path:
    """Fills `folder` with links to Flink's jars, flink-python, the connector and our functions.

    All but the first belong into the cluster's lib. As jars of a job, their classes are loaded
    again at each submission and leak until the TaskManager's metaspace is full.
    """
    home, (loader, planner) = pyflink_home(), planner_jars()
    jars = [
        *(jar for jar in (home / "lib").glob("*.jar") if jar != loader),
        planner if planner.is_file() else loader,
        *(home / "opt").glob("flink-python-*.jar"),
        *(JARS / "flink").glob("*.jar"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.iterdir()) - {folder / jar.name for jar in jars}:
        stale.unlink()
    for jar in jars:
        link = folder / jar.name
        if link.resolve() != jar.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(jar)
    return folder


def embedded_environment(folder: Path) -> dict[str, str]:
    """Environment of a Flink inside a Python process. Links its jars into `folder`."""
    return {"FLINK_HOME": str(pyflink_home()), "FLINK_LIB_DIR": str(link_jars(folder))}


def flink_options(gpu: bool = False) -> dict[str, Any]:
    """The options of flink-conf/config.yaml, overridden by config.gpu.yaml if `gpu`."""
    options = yaml.safe_load(CPU_CONFIG.read_text())
    return options | yaml.safe_load(GPU_CONFIG.read_text()) if gpu else options


def write_configuration(folder: Path, overrides: dict[str, Any], client: bool = False) -> None:
    """Writes config.yaml (flink-conf/config.yaml with `overrides`) and the log4j files to `folder`.

    `client`: omits the folder options, so that `flink run` keeps the cluster's folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = flink_options()
    if client:
        for key in CLUSTER_FOLDER_OPTIONS:
            del configuration[key]
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration | overrides, width=10_000))
    for source in (LOGGING, CLIENT_LOGGING):
        shutil.copyfile(source, folder / source.name)


def environment(folder: Path) -> dict[str, str]:
    """Environment of Flink's JVMs and Python workers; `folder` contains conf/, lib/ and tmp/."""
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
    folder: Path,
    main_class: str,
    *jvm: str,
    log4j: str = "console",
    extra_jar: Path | None = None,
    process: str = "",
) -> list[str]:
    """`java` with Flink's class path and options from `folder`.

    log4j: "console" or "cli". process: whose own options count, such as "taskmanager".
    """
    # flink-dist comes last, as in Flink's scripts: the classes of the other jars take precedence.
    jars = sorted((folder / "lib").glob("*.jar"), key=lambda jar: ("flink-dist" in jar.name, jar))
    # The jars of an archive come first, by paths that are the same for each folder.
    class_path = [jar.resolve() for jar in jars]
    if extra_jar:
        class_path.append(extra_jar)
    archive = [f"-XX:SharedArchiveFile={CLASS_ARCHIVE}"] if CLASS_ARCHIVE.is_file() else []
    options = yaml.safe_load((folder / "conf" / "config.yaml").read_text())
    return [
        str(java.home() / "bin" / "java"),
        *jvm,
        *archive,
        *options["env.java.opts.all"].split(),
        *options.get(f"env.java.opts.{process}", "").split(),
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-Dlog4j.configurationFile={folder / 'conf' / f'log4j-{log4j}.properties'}",
        "-classpath",
        ":".join(map(str, class_path)),
        main_class,
    ]


def client_command(folder: Path, *jvm: str) -> list[str]:
    """The command of Flink's script `flink`, with options for a JVM that runs for seconds."""
    main_class = "org.apache.flink.client.cli.CliFrontend"
    return java_command(folder, main_class, *jvm, *PLANNER_JVM_OPTIONS, log4j="cli")
