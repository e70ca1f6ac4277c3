"""Virtual environments of the peers, whose packages conflict with those of the product."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from liveprofile.errors import ServiceError
from liveprofile.resources import STACK_FOLDER, sha256

FOLDER = STACK_FOLDER / "peers"


def requirements(name: str) -> Path:
    """All packages of a peer with their hashes, as `uv pip compile --generate-hashes` writes."""
    return Path(__file__).parent / "requirements" / f"{name}.txt"


def version(name: str) -> str:
    """The package that the file is about: its name and version."""
    text = requirements(name).read_text("utf-8")
    [found] = re.findall(rf"^\S*{name}\S*==\S+", text, re.MULTILINE)
    return found


def python_of(name: str) -> Path:
    """The Python of a peer's environment, which is made first if it is missing or outdated.

    Its own packages come first; the product's follow, for the model and Cassandra. Raises
    ServiceError.
    """
    folder = FOLDER / name
    python, marker = folder / "bin" / "python", folder / ".complete"
    fingerprint = sha256(requirements(name))
    if not (marker.is_file() and marker.read_text() == fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder)
        uv = Path(sys.executable).with_name("uv")
        options = ("--quiet", "--python", python, "--no-deps", "--require-hashes")
        _run(uv, "pip", "install", *options, "--requirement", requirements(name))
        [packages] = folder.glob("lib/*/site-packages")
        (packages / "product.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        marker.write_text(fingerprint)
    return python


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ServiceError(f"{command[0]} failed: {' '.join(lines[-5:])}")
