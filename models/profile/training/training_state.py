"""The state of an unfinished training after its last epoch, from which a killed one resumes.

The file has torch's own format and is read with `weights_only`, which executes no code of the file.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from liveprofile.errors import InputError

FILE = "training-state.pt"
REFIT_FILE = "refit-state.pt"  # of the second training, after validation has chosen
PARTIAL = ".partial"
MAX_DIFFERENCES_SHOWN = 3


class StateFile:
    """Reads and writes the state together with `run`, which identifies the training.

    `run` holds everything that determines the result, as nested dicts of plain values.
    """

    def __init__(self, file: Path, run: dict[str, Any]):
        self.file, self.run = file, run

    def read(self) -> dict[str, Any] | None:
        """The state, or None without a file. Raises InputError for the state of another run."""
        if not self.file.is_file():
            return None
        try:
            saved = torch.load(self.file, map_location="cpu", weights_only=True)
            changes = differences(saved["run"], self.run)
            reason = changes and f"of another run: {changes}"
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if reason:
            raise InputError(f"training state {self.file}: {reason}; remove it to start over")
        return saved["state"]

    def write(self, state: dict[str, Any]) -> None:
        """Replaces the file atomically: after a crash it has the old state or the new one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(self.file.name + PARTIAL)
        with partial.open("wb") as out:
            torch.save({"run": self.run, "state": state}, out)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove(folder: Path) -> None:
    """Removes the states of a folder's training."""
    for name in (FILE, REFIT_FILE):
        for file in (name, name + PARTIAL):
            (folder / file).unlink(missing_ok=True)


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first values that differ, as text for an error message; "" if all are equal."""
    flat_before, flat_now = _flatten(before), _flatten(now)
    texts = [
        f"{name} was {flat_before.get(name)}, is {flat_now.get(name)}"
        for name in {**flat_before, **flat_now}
        if flat_before.get(name) != flat_now.get(name)
    ]
    omitted = len(texts) - MAX_DIFFERENCES_SHOWN
    more = f" and {omitted} more" if omitted > 0 else ""
    return ", ".join(texts[:MAX_DIFFERENCES_SHOWN]) + more


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
