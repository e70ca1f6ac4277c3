"""The Helm chart is what the manifests are, and its values change what they say."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.generators.helm_chart import CHART, MANIFESTS, templates
from tests.support.paths import ROOT

TOOLS = ROOT / ".stack" / "helm"
HELM, KUBECTL = TOOLS / "helm" / "helm", TOOLS / "kubectl" / "kubectl"
needs_helm = pytest.mark.skipif(not HELM.is_file(), reason=f"{HELM} is missing: stack/helm.sh")


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def by_name(text: str) -> dict[str, dict[str, Any]]:
    documents = [each for each in yaml.safe_load_all(text) if each]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


def rendered(*options: str) -> dict[str, dict[str, Any]]:
    return by_name(run(HELM, "template", "shop", CHART, "--namespace", "liveprofile", *options))


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    return by_name(
        "\n---\n".join(
            file.read_text("utf-8")
            for file in MANIFESTS.glob("*.yaml")
            if file.stem != "kustomization"
        )
    )


def test_templates_are_generated_from_the_manifests() -> None:
    """`python -m tests.support.generators.helm_chart` writes them."""
    generated = templates()
    for path, content in generated.items():
        assert (CHART / path).read_text("utf-8") == content, path
    found = {str(file.relative_to(CHART)) for file in CHART.rglob("*") if file.is_file()}
    assert found == generated.keys() | {"Chart.yaml", "values.yaml"}


@needs_helm
def test_chart_is_linted_without_a_warning() -> None:
    assert "0 chart(s) failed" in run(HELM, "lint", "--strict", CHART)


@needs_helm
def test_default_values_give_the_manifests(manifests: dict[str, dict[str, Any]]) -> None:
    found = rendered()
    config_map = found.pop("ConfigMap/liveprofile")
    settings = (MANIFESTS / "liveprofile.toml").read_text("utf-8")
    assert config_map["data"]["liveprofile.toml"].strip() == settings.strip()
    found["Job/liveprofile-setup"] = found.pop("Job/liveprofile-setup-1")
    expected = copy.deepcopy(manifests)
    assert found.keys() == expected.keys()
    for name, manifest in found.items():
        if name.startswith("Deployment/"):
            annotations = manifest["spec"]["template"]["metadata"].pop("annotations")
            assert len(annotations["checksum/settings"]) == 64
        if name == "Job/liveprofile-setup":
            manifest["metadata"]["name"] = "liveprofile-setup"
        assert manifest == expected[name], name


@needs_helm
def test_values_change_the_rendered_objects(tmp_path: Path) -> None:
    settings = tmp_path / "own.toml"
    settings.write_text('[kafka]\nbootstrap_servers = "{{ no template }}"\n')
    found = rendered(
        "--set-file",
        f"settings={settings}",
        "--set",
        "image=registry.example.org/liveprofile:7,stateUri=s3://bucket/state,job.parallelism=8"
        ",taskManager.slots=2,taskManager.memory=6g,taskManager.cpu=2,jobManager.memory=2g"
        ",api.replicas=5,decoder.enabled=false,networkPolicies.enabled=false",
    )
    flink = found["FlinkDeployment/liveprofile"]["spec"]
    assert flink["image"] == "registry.example.org/liveprofile:7"
    assert flink["job"]["parallelism"] == 8
    assert flink["taskManager"]["resource"] == {"memory": "6g", "cpu": 2}
    assert flink["jobManager"]["resource"]["memory"] == "2g"
    options = flink["flinkConfiguration"]
    assert options["taskmanager.numberOfTaskSlots"] == "2"
    assert options["execution.checkpointing.dir"] == "s3://bucket/state/checkpoints"
    assert not any("file:///state" in str(value) for value in options.values())
    assert found["Deployment/liveprofile-api"]["spec"]["replicas"] == 5
    assert "Deployment/liveprofile-decoder" not in found
    assert not any(name.startswith("NetworkPolicy/") for name in found)
    text = found["ConfigMap/liveprofile"]["data"]["liveprofile.toml"]
    assert text.strip() == settings.read_text().strip()


@needs_helm
def test_kustomization_builds_the_manifests(manifests: dict[str, dict[str, Any]]) -> None:
    built = by_name(run(KUBECTL, "kustomize", MANIFESTS))
    assert built.keys() == manifests.keys() | {"ConfigMap/liveprofile"}
    assert {each["metadata"]["namespace"] for each in built.values()} == {"liveprofile"}
    for name, manifest in manifests.items():
        assert built[name]["spec"] == manifest["spec"], name
