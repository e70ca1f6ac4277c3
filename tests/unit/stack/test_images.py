"""Dockerfile and compose.yaml keep the rules that a reviewer of images checks.

No container runtime is needed, and none has run them: docs/deploy.md.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from liveprofile import __version__
from liveprofile.settings import Settings
from tests.support.commands import parse
from tests.support.paths import ROOT

IMAGE = ROOT / "deploy" / "image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((IMAGE / "compose.yaml").read_text("utf-8"))
OWN = {n: s for n, s in COMPOSE["services"].items() if s["image"].startswith("liveprofile:")}
SECRET = re.compile(r"(?i)(password|secret|token|_key)\w*\s*[=:]")


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), with continued lines joined and comments removed."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


def arguments(instruction: str) -> list[str]:
    return [text for name, text in instructions() if name == instruction]


def test_base_images_are_pinned_to_a_patch_version() -> None:
    bases = [text.split()[0] for text in arguments("FROM")]
    assert bases and all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z-]+", base) for base in bases)
    images = {service["image"] for service in COMPOSE["services"].values()}
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+", image) for image in images)


def test_image_runs_as_the_user_of_the_manifests() -> None:
    assert arguments("USER")[-1] == "9999:9999"
    last_user = [name for name, _ in instructions()].index("USER")
    assert not [text for name, text in instructions()[last_user:] if name in ("RUN", "COPY", "ADD")]


def test_no_credentials_are_in_the_files() -> None:
    for text in (
        DOCKERFILE,
        (IMAGE / "compose.yaml").read_text(),
        (IMAGE / "compose.toml").read_text(),
    ):
        code = [line.split("#")[0] for line in text.splitlines()]
        assert not [line for line in code if SECRET.search(line)]
    assert arguments("ARG") == ["TORCH_INDEX"]


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    context = (IMAGE / "Dockerfile.dockerignore").read_text().splitlines()
    assert context[0] == "*"
    allowed = [line[1:] for line in context if line.startswith("!")]
    assert all((ROOT / path).exists() for path in allowed)
    for text in arguments("COPY"):
        if "--from=" in text:
            continue
        for source in text.split()[:-1]:
            inside = [path for path in allowed if Path(source).is_relative_to(path)]
            assert source == "." or inside, source
    for folder in ("tests", "benchmarks", "docs", ".git", ".venv", ".stack"):
        assert folder not in allowed


def test_image_has_every_package_that_the_product_imports() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(config["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    allowed = (IMAGE / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in packages - {"liveprofile_app"}} <= set(allowed)


@pytest.mark.parametrize("name", OWN)
def test_container_runs_a_command_without_privileges(name: str) -> None:
    service = OWN[name]
    assert service["image"] == f"liveprofile:{__version__}"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if service["command"][:3] == ["python", "-m", "cli"]:
        parse(service["command"][3:])
        assert service["read_only"] is True
    else:
        assert service["command"][0] in ("standalone-job.sh", "taskmanager.sh", "chown")


def test_only_loopback_is_published() -> None:
    published = [p for service in COMPOSE["services"].values() for p in service.get("ports", ())]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_settings_of_the_containers_are_valid_and_name_the_services() -> None:
    settings = Settings(**tomllib.loads((IMAGE / "compose.toml").read_text("utf-8")))
    hosts = {settings.kafka.bootstrap_servers.split(":")[0], *settings.cassandra.contact_points}
    hosts.add(re.fullmatch(r"http://(\w+):8081", settings.flink.rest_url)[1])
    assert hosts <= COMPOSE["services"].keys()
    ports = {s: OWN[s]["ports"] for s in ("api", "console")}
    assert ports == {
        "api": [f"127.0.0.1:{settings.serve.port}:{settings.serve.port}"],
        "console": [f"127.0.0.1:{settings.serve.console_port}:{settings.serve.console_port}"],
    }
    slots = [o for o in OWN["taskmanager"]["command"] if "numberOfTaskSlots" in o]
    assert slots == [f"-Dtaskmanager.numberOfTaskSlots={settings.job.parallelism}"]


def test_job_is_started_as_on_kubernetes() -> None:
    deployment = yaml.safe_load(
        (ROOT / "deploy" / "kubernetes" / "flinkdeployment.yaml").read_text("utf-8")
    )
    spec = deployment["spec"]
    command = OWN["jobmanager"]["command"]
    assert command[command.index("--job-classname") + 1] == spec["job"]["entryClass"]
    assert command[command.index("--python") :] == spec["job"]["args"]
    options = dict(o[2:].split("=", 1) for o in command if o.startswith("-D"))
    shared = options.keys() & spec["flinkConfiguration"].keys()
    assert len(shared) >= 5
    assert {n: options[n] for n in shared} == {n: spec["flinkConfiguration"][n] for n in shared}
