"""The extras of the package: each installs what its commands import, in the pinned versions."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.support.paths import ROOT
from tests.unit.serve.test_server import MODULES, pinned

IMPORT_ALL = """
import sys; sys.modules.update(dict.fromkeys(sys.argv[1:]))
import importlib, pkgutil, cli.main, cli.learning, models
for package in (models, cli.learning):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_training_needs_no_flink() -> None:
    installed = pinned("requirements-train.txt") | pinned("requirements-client.txt")
    everything = pinned("requirements.txt") | pinned("requirements-serve.txt")
    others = everything.keys() - installed.keys()
    assert {"apache-flink", "fastapi"} <= others
    modules = [MODULES.get(name, name.replace("-", "_")) for name in others]
    # A module that is None cannot be imported.
    command = [sys.executable, "-c", IMPORT_ALL, *modules]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]


def test_versions_of_training_are_those_of_the_job() -> None:
    assert pinned("requirements-train.txt").items() <= pinned("requirements.txt").items()


def test_demo_is_job_and_serve() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["requirements_txt"]
    extras = hook["optional-dependencies"]
    assert extras["demo"] == extras["job"] + extras["serve"]
    assert all((ROOT / file).is_file() for files in extras.values() for file in files)
