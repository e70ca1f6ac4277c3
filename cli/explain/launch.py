"""The explainer of `liveprofile serve api` and `liveprofile serve console`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from liveprofile.resources import module_environment
from liveprofile.settings import Settings
from serve.explainer import ChildExplainer

# What `liveprofile[serve]` lacks.
NEEDED = ("torch", "pyflink")


def open_explainer(settings: Settings, config: Path | None) -> ChildExplainer | None:
    """None: the settings allow none, or the packages of the model or the job are not installed.

    config: the settings' file.
    """
    serve = settings.serve
    if not serve.explanations_at_once or any(find_spec(name) is None for name in NEEDED):
        return None
    return ChildExplainer(
        [sys.executable, "-m", "cli.explain.child"],
        {**module_environment(), "OMP_NUM_THREADS": "1"},
        {"config": None if config is None else str(config.resolve())},
        serve.explanations_at_once,
        serve.explanation_timeout_s,
    )
