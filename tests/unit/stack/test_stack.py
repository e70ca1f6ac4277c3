"""Parts of the local stack that work without a running service."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from liveprofile.errors import PortTakenError, ServiceError
from liveprofile.flink import launcher, rest
from liveprofile.flink.jobs import jobs
from liveprofile.settings import load
from stack import state
from stack.local import Stack
from stack.process import Service
from stack.state import StackState


def test_second_call_returns_the_same_ports(tmp_path: Path) -> None:
    first = StackState(tmp_path).ports("kafka", "cassandra")
    assert StackState(tmp_path).ports("cassandra", "kafka") == first
    assert len(set(first.values())) == 2
    assert all(port in state.PORTS for port in first.values())


def test_written_settings_point_at_the_stack(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    settings = load(stack.write_config())
    assert settings.kafka.bootstrap_servers == stack.kafka.bootstrap_servers
    assert settings.cassandra.port == stack.cassandra.port
    assert settings.flink.rest_url == stack.rest_url
    assert (settings.serve.host, settings.serve.port) == ("127.0.0.1", stack.api.port)
    assert settings.serve.console_port == stack.console.port != stack.api.port


def test_second_cluster_of_the_scoring_job_is_remembered(tmp_path: Path) -> None:
    Stack(tmp_path, pipelines="apart").write_config()
    stack = Stack(tmp_path)
    settings = load(stack.write_config())
    profile, scoring = (job.settings for job in jobs(settings))
    assert (profile.job.name, scoring.job.name) == ("liveprofile-profile", "liveprofile-scoring")
    assert profile.flink.rest_url == stack.rest_url != scoring.flink.rest_url
    assert [*stack.services][-2:] == ["scoring-jobmanager", "scoring-taskmanager"]
    assert len(Stack(tmp_path, pipelines="together").services) == 4


def test_pausing_a_stopped_service_is_rejected(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    assert stack.kafka.pid is None
    with pytest.raises(ServiceError, match="kafka is not running"):
        stack.kafka.pause()


class FileServer(Service):
    name = "files"

    @property
    def port(self) -> int:
        return self.state.ports("files")["files"]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "http.server", str(self.port), "-b", state.LOOPBACK], {}

    def ready(self) -> bool:
        try:
            return httpx2.get(f"http://{state.LOOPBACK}:{self.port}", timeout=1).is_success
        except httpx2.HTTPError:
            return False


class FileServerStack(Stack):
    @property
    def services(self) -> dict[str, Service]:
        return {"files": FileServer(self.root, StackState(self.root))}


@pytest.mark.slow
def test_port_of_another_process_is_replaced_at_the_first_start_only(tmp_path: Path) -> None:
    stack = FileServerStack(tmp_path)
    server = stack.services["files"]
    with socket.create_server((state.LOOPBACK, server.port)) as other:
        try:
            stack.start()
            assert server.port != other.getsockname()[1]
        finally:
            server.stop()
    with socket.create_server((state.LOOPBACK, server.port)), pytest.raises(PortTakenError):
        server.start()


def test_reused_pid_of_another_process_is_not_the_service(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    with StackState(tmp_path).update() as content:
        content["processes"]["kafka"] = {"pid": 1, "started_s": 0.0}
    assert not stack.kafka.alive()


def test_failure_reason_prefers_the_error_of_the_job() -> None:
    python = "Traceback (most recent call last):\n  File x\nValueError: no column foo\n"
    java = "Caused by: java.lang.RuntimeException: Python process exits with code: 1\n"
    assert rest.failure_reason(python + java) == "ValueError: no column foo"
    planner = "Caused by: a.B: outer\nCaused by: a.C: no table\n" + java
    assert rest.failure_reason(planner) == "a.C: no table"
    client = "Traceback (most recent call last):\npy4j.protocol.Py4JJavaError: An error occurred.\n"
    assert rest.failure_reason(f"{client}{planner}\t... 31 more\n") == "a.C: no table"
    assert rest.failure_reason(f"profile_job: no column: foo\n{java}") == "no column: foo"
    error, frames = "x.TimeoutException: a heartbeat", "\n\tat org.apache.flink.A.b(A.java:1)" * 15
    assert rest.failure_reason(error + frames) == error


def test_unreachable_jobmanager_gives_an_error_of_one_line() -> None:
    with pytest.raises(ServiceError, match="no Flink JobManager answers at") as caught:
        rest.overview("http://127.0.0.1:1")
    assert "\n" not in str(caught.value)


def test_client_configuration_omits_the_folders_of_the_cluster(tmp_path: Path) -> None:
    launcher.write_configuration(tmp_path, {"rest.port": 1}, client=True)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert not set(launcher.CLUSTER_FOLDER_OPTIONS) & set(written)
    assert written["rest.port"] == 1


def test_gpu_configuration_has_one_slot_for_each_gpu() -> None:
    options = launcher.flink_options(gpu=True)
    slots, gpus = options["taskmanager.numberOfTaskSlots"], options["external-resource.gpu.amount"]
    assert slots == gpus == 1
    assert launcher.flink_options()["taskmanager.numberOfTaskSlots"] > 1


@pytest.mark.slow
def test_stacks_share_archive_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, extra = tmp_path / "flink.jsa", tmp_path / "extra.jar"
    main = "org.apache.flink.client.cli.CliFrontend"
    extra.touch()
    monkeypatch.setattr(launcher, "CLASS_ARCHIVE", archive)

    def start(folder: Path, *jvm: str, extra: Path | None = None) -> str:
        launcher.write_configuration(folder / "conf", {})
        launcher.link_jars(folder / "lib")
        command = launcher.java_command(folder, main, *jvm, extra_jar=extra, log4j="cli")
        environment = launcher.environment(folder)
        return subprocess.check_output([*command, "--version"], env=environment, text=True)

    start(tmp_path / "a", f"-XX:ArchiveClassesAtExit={archive}")
    shutil.rmtree(tmp_path / "a")
    loaded = start(tmp_path / "other" / "b", "-Xlog:class+load", extra=extra)
    assert f"{main} source: shared objects file (top)" in loaded
