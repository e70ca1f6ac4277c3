"""A Flink standalone cluster: one JobManager, one TaskManager, from the pip package's jars.

The JVMs are started without Flink's scripts, which run four more each before the real one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import yaml

from liveprofile.errors import ServiceError
from stack import JARS, PROJECT, java
from stack.process import Service
from stack.state import LOOPBACK, State

DEFAULT_SLOTS = 4
ENTRY = "org.apache.flink.runtime"
WORKER = "pyflink.fn_execution"
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# A client sends its whole configuration along with a job, where it beats the cluster's.
FOLDERS_OF_THE_CLUSTER = {
    "execution.checkpointing.dir": "checkpoints",
    "execution.checkpointing.savepoint-dir": "savepoints",
    "state.changelog.dstl.dfs.base-path": "changelog",
}
CPU_CONFIG = PROJECT / "flink-conf" / "config.yaml"
GPU_CONFIG = PROJECT / "flink-conf" / "config.gpu.yaml"
LOGGING = PROJECT / "flink-conf" / "log4j-console.properties"
CLIENT_LOGGING = Path(__file__).with_name("conf") / "log4j-cli.properties"


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


def _memory_options(folder: Path, process: str, dynamic: list[str]) -> tuple[list[str], list[str]]:
    """JVM options and Flink options that split the process size; `process`: "JM" or "TM"."""
    utilities = pyflink_home() / "bin" / "bash-java-utils.jar"
    main_class = "org.apache.flink.runtime.util.bash.BashJavaUtils"
    command = java_command(folder, main_class, *SHORT_LIVED, extra_jar=utilities)
    command += [f"GET_{process}_RESOURCE_PARAMS", "--configDir", str(folder / "conf"), *dynamic]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(folder), check=False
    )
    marked = "BASH_JAVA_UTILS_EXEC_RESULT:"
    results = [
        line.removeprefix(marked).split()
        for line in done.stdout.splitlines()
        if line.startswith(marked)
    ]
    if done.returncode or len(results) != 2:
        raise ServiceError(
            f"Flink refuses {folder / 'conf'}: {(done.stdout + done.stderr)[-2000:]}"
        )
    return results[0], results[1]


class _FlinkService(Service):
    """`slots`: None takes what the root was last started with."""

    def __init__(self, root: Path, state: State, slots: int | None):
        super().__init__(root, state)
        self._slots = slots
        self._durable = root / "flink"
        self._temporary = self.folder / "tmp"

    @property
    def rest_url(self) -> str:
        return f"http://{LOOPBACK}:{self.state.ports('flink_rest')['flink_rest']}"

    def _configure(self) -> None:
        with self.state.change() as content:
            slots = content["slots"] = self._slots or content.get("slots", DEFAULT_SLOTS)
        ports = self.state.ports("flink_rest", "flink_rpc", "flink_blob")
        write_configuration(
            self.folder / "conf",
            {
                "jobmanager.rpc.address": LOOPBACK,
                "jobmanager.rpc.port": ports["flink_rpc"],
                "jobmanager.bind-host": LOOPBACK,
                "blob.server.port": ports["flink_blob"],
                "rest.address": LOOPBACK,
                "rest.bind-address": LOOPBACK,
                "rest.port": ports["flink_rest"],
                "taskmanager.host": LOOPBACK,
                "taskmanager.bind-host": LOOPBACK,
                "taskmanager.numberOfTaskSlots": slots,
                **{
                    option: (self._durable / name).as_uri()
                    for option, name in FOLDERS_OF_THE_CLUSTER.items()
                },
                "io.tmp.dirs": str(self._temporary),
                "web.log.path": str(self.log),
                "taskmanager.log.path": str(self.log),
            },
        )
        library(self.folder / "lib")
        shutil.rmtree(self._temporary, ignore_errors=True)  # what a killed process left
        self._temporary.mkdir()

    def _command(self, process: str, main_class: str, *dynamic: str) -> list[str]:
        jvm, split = _memory_options(self.folder, process, list(dynamic))
        arguments = ["--configDir", str(self.folder / "conf"), *split, *dynamic]
        return [*java_command(self.folder, main_class, *jvm), *arguments]

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(self.rest_url + path, timeout=2) as answer:
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None  # not up yet


class JobManager(_FlinkService):
    name = "jobmanager"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        command = self._command("JM", f"{ENTRY}.entrypoint.StandaloneSessionClusterEntrypoint")
        return command, environment(self.folder)

    def ready(self) -> bool:
        return self._get("/overview") is not None


class TaskManager(_FlinkService):
    """Ready once the JobManager knows it."""

    name = "taskmanager"
    _resource_id = ""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        # Named anew at each start: the JobManager remembers a killed one for a while.
        self._resource_id = f"taskmanager-{uuid.uuid4().hex[:8]}"
        identity = f"-Dtaskmanager.resource-id={self._resource_id}"
        command = self._command("TM", f"{ENTRY}.taskexecutor.TaskManagerRunner", identity)
        return command, environment(self.folder)

    def ready(self) -> bool:
        known = self._get("/taskmanagers") or {"taskmanagers": []}
        return any(each["id"] == self._resource_id for each in known["taskmanagers"])

    def workers(self) -> list[psutil.Process]:
        """The Python processes that the models run in, those of every job."""
        children = self._required().children(recursive=True)
        return [
            each for each in children if "python" in each.name() and WORKER in str(each.cmdline())
        ]
