"""The packages that the project pins, by extra."""

import re
import subprocess
import sys
import tomllib

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = {"apache-flink": "pyflink", "PyYAML": "yaml", "scikit-learn": "sklearn"}
MODULES |= {"xgboost-cpu": "xgboost"}


def pinned(*extras: str) -> dict[str, str]:
    """Versions by package of the extras, or of the group `test`, and of the package itself."""
    groups = PROJECT["project"]["optional-dependencies"] | PROJECT["dependency-groups"]
    found: dict[str, str] = {}
    requirements = list(PROJECT["project"]["dependencies"])
    requirements += (line for extra in extras for line in groups[extra])
    for requirement in requirements:
        if own := re.fullmatch(r"liveprofile\[([\w,]+)\]", requirement):
            found |= pinned(*own[1].split(","))
        else:
            name, version = requirement.split("==")
            found[name] = version
    return found


def run_without(packages: set[str], code: str) -> None:
    """Runs code in a process that can import none of the packages. Raises if the code fails."""
    modules = sorted(MODULES.get(name, name.replace("-", "_")) for name in packages)
    # A module that is None cannot be imported.
    block = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:]))\n"
    command = [sys.executable, "-c", block + code, *modules]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
