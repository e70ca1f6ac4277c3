"""The state of a training under way, in one file, so that a killed training goes on where it was.

It is torch's own format and is read with `weights_only`, which runs no code of the file's.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from liveprofile.errors import InputError

FILE = "training-state.pt"
# Beside the end of each epoch: what a kill may cost, against the time that a write of a big model
# takes (twice its weights for the optimizer, and the best weights so far).
EVERY_S = 60.0
DIFFERENCES_SHOWN = 3


class StateFile:
    """`run`: all that decides the result, nested dicts of plain values; kept beside the state."""

    def __init__(self, file: Path, run: dict[str, Any]):
        self.file, self.run = file, run

    def read(self) -> dict[str, Any] | None:
        """The state, None if there is none. Raises InputError for one of another run."""
        if not self.file.is_file():
            return None
        try:
            kept = torch.load(self.file, map_location="cpu", weights_only=True)
            differ = differences(kept["run"], self.run)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"training state {self.file}: {reason}; --fresh starts over") from None
        if differ:
            raise InputError(
                f"training state {self.file}: of another run: {differ}; --fresh starts over"
            )
        return kept["state"]

    def write(self, state: dict[str, Any]) -> None:
        """Whatever ends the process or the machine, the file is the old state or this one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("wb") as out:
            torch.save({"run": self.run, "state": state}, out)
            out.flush()
            os.fsync(out.fileno())
        self._partial.replace(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.file.with_name(f"{self.file.name}.partial")


def differences(was: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few values that differ, for a person; "" if all are the same."""
    one, other = _flat(was), _flat(now)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    shown = [f"{name} was {one.get(name)}, is {other.get(name)}" for name in names]
    more = f" and {len(names) - DIFFERENCES_SHOWN} more" if len(names) > DIFFERENCES_SHOWN else ""
    return ", ".join(shown[:DIFFERENCES_SHOWN]) + more


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
