"""The entry point of the `liveprofile` command.

A wheel installs the packages cli, console, intake, jobs, models, monitoring, offline, serve,
services, stack and udfs inside this package, because their names are too general for site-packages.
They are imported by their own names, so `main` puts this folder on the path. In a checkout they lie
in the project's root, which is on the path already.
"""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_OWN = {
    "cli", "console", "intake", "jobs", "liveprofile", "models", "monitoring", "offline", "serve",
    "services", "stack", "udfs",
}  # fmt: skip


def main() -> None:
    if (_FOLDER / "cli").is_dir():
        sys.path.insert(0, str(_FOLDER))
    try:
        from cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        # The package can be installed without what most commands need.
        name = (error.name or "").partition(".")[0]
        if name in _OWN:
            raise
        sys.stderr.write(
            f"liveprofile: the package {name} is not installed: `pip install 'liveprofile[serve]'`"
            " for `liveprofile serve api`, `console`, `key` and `metrics`, 'liveprofile[job]' for"
            " all others\n"
        )
        sys.exit(2)
