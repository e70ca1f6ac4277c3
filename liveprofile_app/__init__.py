"""The entry point of the `liveprofile` command.

A wheel installs the packages cli, jobs, models, stack and udfs inside this package, because their
names are too general for site-packages. They are imported by their own names, so `main` puts this
folder on the path. In a checkout they lie in the project's root, which is on the path already.
"""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def main() -> None:
    if (_FOLDER / "cli").is_dir():
        sys.path.insert(0, str(_FOLDER))
    from cli.main import main as run

    run()
