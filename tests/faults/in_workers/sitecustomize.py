"""Lets a method fail once in a Python worker of Flink, when a file with the fault's name appears.

Python imports this module at its start if PYTHONPATH has this folder: tests/conftest.py adds it for
the TaskManagers. The workers have the product's code, but no tests.
"""

import functools
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = Path(os.environ.get("WORKER_FAULTS", "/nonexistent"))
# Module of a method -> its class, its name, the name of the fault.
METHODS = {
    "models.profile.inference": ("ProfileModel", "score", "model"),
    "udfs.profile.writer": ("CassandraProfileWriter", "write", "write"),
    "udfs.scoring.batch": ("EventScorer", "score", "scoring"),
}


class FailingMethods(PathFinder):
    """Imports the modules of METHODS and replaces their methods."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in METHODS:
            return None
        spec = super().find_spec(fullname, path, target)
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            name, method, fault = METHODS[fullname]
            kind = getattr(module, name)
            setattr(kind, method, failing(getattr(kind, method), fault))

        spec.loader.exec_module = execute_and_replace
        return spec


def failing(method, fault):
    @functools.wraps(method)
    def may_fail(*args, **options):
        try:
            (FOLDER / fault).unlink()
        except FileNotFoundError:
            return method(*args, **options)
        raise RuntimeError(f"injected: {fault} fails")

    return may_fail


if any("pyflink.fn_execution" in argument for argument in sys.orig_argv):
    sys.meta_path.insert(0, FailingMethods)
