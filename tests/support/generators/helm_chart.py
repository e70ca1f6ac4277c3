"""Generates the templates of the Helm chart from the manifests of deploy/kubernetes/.

    python -m tests.support.generators.helm_chart

A template is its manifest with values in place of what deployments differ in, so that the chart
with the default values is what the manifests are. tests/unit/stack/test_helm_chart.py compares.
"""

import re
from pathlib import Path

import typer

from tests.support.paths import ROOT

MANIFESTS = ROOT / "deploy" / "kubernetes"
CHART = MANIFESTS / "chart"
# Parts that a value switches off, and their manifests.
SWITCHED = {"api": "api", "console": "console", "consumer": "consumer", "decoder": "decoder"}
SWITCHED |= {"logins": "logins"} | {"metrics": "metrics", "network-policies": "networkPolicies"}
SWITCHED |= {"chores": "chores"}
SETTINGS = '.Values.settings | default (.Files.Get "liveprofile.toml")'
CHECKSUM = f"      annotations:\n        checksum/settings: {{{{ {SETTINGS} | sha256sum }}}}\n"
REVISION = "-{{ .Release.Revision }}"
CONFIG_MAP = f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: liveprofile
data:
  liveprofile.toml: |
    {{{{- {SETTINGS} | nindent 4 }}}}
"""


def templates() -> dict[str, str]:
    """{path in the chart: content} of all generated files."""
    files = {
        f"templates/{file.name}": template(file.stem, file.read_text("utf-8"))
        for file in sorted(MANIFESTS.glob("*.yaml"))
        if file.stem != "kustomization"
    }
    settings = (MANIFESTS / "liveprofile.toml").read_text("utf-8")
    return files | {"templates/configmap.yaml": CONFIG_MAP, "liveprofile.toml": settings}


def template(name: str, manifest: str) -> str:
    """The template of a manifest. Raises ValueError if the manifest lacks what a value replaces."""
    text = _replaced(
        manifest, r"image: liveprofile:\S+", "image: {{ .Values.image | quote }}", name
    )
    if name == "flinkdeployment":
        text = _flink(text)
    if name in ("api", "consumer", "decoder", "chores", "logins"):
        text = _replaced(
            text, r"replicas: \d+", f"replicas: {{{{ .Values.{name}.replicas }}}}", name
        )
    if name == "setup":
        # A Job cannot be changed: each release gets its own.
        text = _replaced(text, r"(?<=metadata:\n  name: liveprofile-setup)", REVISION, name)
    if name in SWITCHED and "Deployment" in text:
        # New settings restart the pods.
        text = _replaced(text, r"(?<=template:\n    metadata:\n)", CHECKSUM, name)
    if name not in SWITCHED:
        return text
    return f"{{{{- if .Values.{SWITCHED[name]}.enabled }}}}\n{text}{{{{- end }}}}\n"


def _flink(text: str) -> str:
    for pattern, value in (
        (r"file:///state", "{{ .Values.stateUri }}"),
        (r"claimName: liveprofile-state", "claimName: {{ .Values.stateClaim }}"),
        (r"serviceAccount: flink", "serviceAccount: {{ .Values.serviceAccount }}"),
        (r"(?<=parallelism: )\d+", "{{ .Values.job.parallelism }}"),
        (r'(?<=numberOfTaskSlots: )"\d+"', "{{ .Values.taskManager.slots | quote }}"),
        (r"(?<=jobManager:\n    resource:\n      memory: )\S+", "{{ .Values.jobManager.memory }}"),
        (
            r"(?<=taskManager:\n    resource:\n      memory: )\S+",
            "{{ .Values.taskManager.memory }}",
        ),
        (r"(?<=\}\}\n      cpu: )4", "{{ .Values.taskManager.cpu }}"),
    ):
        text = _replaced(text, pattern, value, "flinkdeployment")
    return text


def _replaced(text: str, pattern: str, value: str, name: str) -> str:
    replaced, count = re.subn(pattern, value, text)
    if not count and not (name == "network-policies" and "image" in pattern):
        raise ValueError(f"{name}.yaml has nothing like {pattern}")
    return replaced


def main() -> None:
    """Generates the templates of the Helm chart from the manifests of deploy/kubernetes/."""
    for path, content in templates().items():
        (CHART / path).parent.mkdir(parents=True, exist_ok=True)
        Path(CHART / path).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
