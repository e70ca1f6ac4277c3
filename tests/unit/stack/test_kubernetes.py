"""The manifests are valid and fit the command line, the settings and each other."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from liveprofile.settings import Settings, load
from tests.support.commands import parse
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OF_OTHERS = {"FlinkDeployment", "Kustomization"}  # kinds that Kubernetes itself does not have
SECRETS = {"liveprofile", "liveprofile-tls", "liveprofile-metrics"}


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


MANIFESTS = {
    f"{document['kind']}/{document.get('metadata', {}).get('name', '')}": document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in documents(file)
}
PODS = {
    name: manifest["spec"]["template"]
    for name, manifest in MANIFESTS.items()
    if name.startswith(("Deployment/", "Job/"))
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(FOLDER / "liveprofile.toml")


@pytest.mark.parametrize(
    "name", [name for name, each in MANIFESTS.items() if each["kind"] not in OF_OTHERS]
)
def test_manifest_is_valid(name: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], "1.37.0", strict=True)


def test_kustomization_has_every_file() -> None:
    kustomization = MANIFESTS["Kustomization/"]
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    [generator] = kustomization["configMapGenerator"]
    assert all((FOLDER / name).is_file() for name in generator["files"])


@pytest.mark.parametrize("name", PODS)
def test_pod_runs_a_command_without_privileges(name: str) -> None:
    pod = PODS[name]["spec"]
    [container] = pod["containers"]
    python, module, package, *arguments = container["command"]
    assert (python, module, package) == ("/opt/venv/bin/python", "-m", "cli")
    parse(arguments)
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", PODS)
def test_pod_mounts_what_exists_and_what_its_settings_name(name: str, settings: Settings) -> None:
    pod = PODS[name]["spec"]
    [container] = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == volumes.keys()
    secrets = {each["secret"]["secretName"] for each in volumes.values() if "secret" in each}
    secrets |= {each["secretRef"]["name"] for each in container["envFrom"]}
    assert secrets <= SECRETS
    pair = [settings.serve.certificate_file, settings.serve.key_file]
    files = {
        "Deployment/liveprofile-api": pair,
        "Deployment/liveprofile-console": pair,
        "Deployment/liveprofile-metrics": [*pair, settings.metrics.token_file],
    }
    for file in files.get(name, []):
        assert str(Path(file).parent) in mounts, file


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("liveprofile-api", "serve.port"),
        ("liveprofile-console", "serve.console_port"),
        ("liveprofile-metrics", "metrics.port"),
    ],
)
def test_service_policy_and_pod_agree_on_the_port(
    name: str, setting: str, settings: Settings
) -> None:
    number = attrgetter(setting)(settings)
    labels = PODS[f"Deployment/{name}"]["metadata"]["labels"]
    [container] = PODS[f"Deployment/{name}"]["spec"]["containers"]
    assert container["ports"] == [{"name": "https", "containerPort": number}]
    service = MANIFESTS[f"Service/{name}"]["spec"]
    assert service["selector"].items() <= labels.items()
    assert [each["port"] for each in service["ports"]] == [number]
    policy = MANIFESTS[f"NetworkPolicy/{name}"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    allowed = {each["port"] for rule in policy["ingress"] for each in rule["ports"]}
    assert allowed == {number}


def test_nothing_is_allowed_by_default() -> None:
    policy = MANIFESTS["NetworkPolicy/liveprofile-nobody"]["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_settings_name_the_flink_cluster_and_its_parallelism(settings: Settings) -> None:
    flink = MANIFESTS["FlinkDeployment/liveprofile"]
    assert settings.flink.rest_url == "http://liveprofile-rest:8081"
    assert settings.job.parallelism == flink["spec"]["job"]["parallelism"]
    policy = MANIFESTS["NetworkPolicy/liveprofile-flink"]["spec"]
    assert policy["podSelector"]["matchLabels"]["app"] == flink["metadata"]["name"]
    reporter = flink["spec"]["flinkConfiguration"]["metrics.reporter.prometheus.port"]
    ports = [each["port"] for rule in policy["ingress"] for each in rule.get("ports", ())]
    assert ports == [8081, int(reporter)]
