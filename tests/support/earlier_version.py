"""The code of an earlier revision, in an environment of its own over the packages of today."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

from liveprofile.flink.jars import JARS, POM
from stack.local import to_toml
from tests.support.paths import ROOT

COMMAND_TIMEOUT_S = 600
# Prints the fields of each section, and null for a plain setting.
KNOWN_SETTINGS = """
import json
from liveprofile.settings import Settings
print(json.dumps({
    name: sorted(getattr(field.annotation, "model_fields", ())) or None
    for name, field in Settings.model_fields.items()
}))
"""


class EarlierVersion:
    """The files of a revision in `folder`, and a Python that imports them.

    Packages that only the revision requires are installed into the environment. All others are
    today's, also where the revision has pinned another version of them. Its jars are downloaded if
    they differ from today's, which the cluster has.

    Raises CalledProcessError for an unknown revision.
    """

    def __init__(self, revision: str, folder: Path):
        self.commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
        self.code = folder / "code"
        self.code.mkdir(parents=True)
        archive = _git("archive", self.commit)
        subprocess.run(["tar", "-x", "-C", str(self.code)], input=archive, check=True)
        (self.code / ".stack").mkdir()
        if (self.code / POM.relative_to(ROOT)).read_text() == POM.read_text():
            (self.code / ".stack" / JARS.name).symlink_to(JARS)
        else:
            fetch = [sys.executable, "-m", "liveprofile.flink.jars"]
            subprocess.run(fetch, cwd=self.code, check=True)
        self._python = self._make_environment(folder / "venv")
        self._known: dict[str, list[str] | None] = json.loads(self.python("-c", KNOWN_SETTINGS))

    def _make_environment(self, environment: Path) -> Path:
        venv.create(environment, with_pip=False, symlinks=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site_packages = environment / "lib" / version / "site-packages"
        # Sorted by name, so the revision's modules are found before those of today's checkout.
        (site_packages / "00_code.pth").write_text(f"{self.code}\n")
        (site_packages / "10_today.pth").write_text(
            f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        )
        python = environment / "bin" / "python"
        if missing := _missing(self.code / "requirements.txt"):
            # This pip is one of today's packages. It leaves what it finds among them alone.
            install = [str(python), "-m", "pip", "install", "--quiet", *missing]
            subprocess.run(install, check=True)
        return python

    def python(self, *arguments: str) -> str:
        """Runs the environment's Python in the folder of the code; returns what it prints."""
        done = subprocess.run(
            [str(self._python), *arguments],
            cwd=self.code,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert not done.returncode, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def cli(self, *arguments: str) -> Any:
        """Runs a command of the revision with --json; returns its parsed output."""
        return json.loads(self.python("-m", "cli", *arguments, "--json"))

    def settings_file(self, of_today: Path) -> Path:
        """Today's settings without those that the revision does not know, and with its files."""
        content = tomllib.loads(of_today.read_text(encoding="utf-8"))
        kept: dict[str, Any] = {}
        for name, value in content.items():
            if name not in self._known:
                continue
            if isinstance(value, dict):
                fields = self._known[name] or ()
                kept[name] = {key: each for key, each in value.items() if key in fields}
            else:
                kept[name] = value
        text = to_toml(kept).replace(f"{ROOT}/", f"{self.code}/")
        file = of_today.with_name(f"{self.commit}.toml")
        file.write_text(text, encoding="utf-8")
        return file


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def _missing(requirements: Path) -> list[str]:
    """The lines of a requirements file whose package is not installed in any version."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    return [line for line in lines if re.match(r"[A-Za-z0-9]", line) and not _installed(line)]


def _installed(requirement: str) -> bool:
    try:
        metadata.version(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
    except metadata.PackageNotFoundError:
        return False
    return True
