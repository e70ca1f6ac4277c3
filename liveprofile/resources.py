"""Where the product's files lie: schemas, mappings, rules, checkpoints, job files.

In a checkout they lie next to the package `liveprofile`; a wheel installs them in the folder
`liveprofile_app` next to it (pyproject.toml).
"""

import hashlib
import os
from pathlib import Path

_PARENT = Path(__file__).resolve().parents[1]
_INSTALLED = _PARENT / "liveprofile_app"
_IS_WHEEL = (_INSTALLED / "cli").is_dir()
ROOT = _INSTALLED if _IS_WHEEL else _PARENT
# Jars, and the local stack's data: in a checkout below it, else below the working folder.
STACK_FOLDER = (Path.cwd() if _IS_WHEEL else ROOT) / ".stack"


def product_path(path: Path | str) -> Path:
    """The path itself if it is absolute or exists from the working folder, else under ROOT.

    A Python worker of Flink runs in a folder of its own, with the code shipped or installed.
    """
    path = Path(path)
    return path if path.is_absolute() or path.exists() else ROOT / path


def module_environment() -> dict[str, str]:
    """The environment for `python -m MODULE` with a module of the product.

    Python finds the modules of a wheel by it, and those of a checkout from any working folder.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def sha256(file: Path) -> str:
    """Hex digest of the file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
