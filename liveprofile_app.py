"""The entry point of the `liveprofile` command.

The packages cli, jobs, models, stack and udfs lie in the folder of this file: in a checkout the
project's root, in a wheel the folder `liveprofile_app`. They are imported by their own names, so
the folder goes on the path first.
"""

import sys
from pathlib import Path

APP_FOLDER = str(Path(__file__).resolve().parent)


def main() -> None:
    if APP_FOLDER not in sys.path:
        sys.path.insert(0, APP_FOLDER)
    from cli.main import main as run

    run()
