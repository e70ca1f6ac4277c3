"""`liveprofile privacy erase --checkpoints`: which models were trained on erased users."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.common import print_json
from cli.operations.tables import print_table
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from liveprofile.privacy.trained_users import TrainedCheckpoint
    from liveprofile.settings import Settings


def list_checkpoints(settings: Settings, folder: Path, json: bool) -> None:
    """Prints the model checkpoints of a folder; exits with 1 unless all are clean."""
    from liveprofile.feeds.users import read_erasures
    from liveprofile.privacy.trained_users import FALSE_POSITIVE_RATE, find_checkpoints

    if not folder.is_dir():
        raise InputError(f"--checkpoints {folder}: no folder")
    erased = read_erasures(settings).users()
    found = list(find_checkpoints(folder, sorted(erased)))
    if json:
        for each in found:
            filters = each.trained.filters if each.trained else ()
            print_json(
                {
                    "checkpoint": str(each.folder),
                    "version": each.version,
                    "trained_users": each.trained and each.trained.users,
                    "erased_users": None if each.trained is None else each.erased,
                    "expected_false": len(erased) * len(filters) * FALSE_POSITIVE_RATE,
                }
            )
    else:
        print_table(
            f"{len(erased)} erased users",
            ("checkpoint", "version", "users", "erased", ""),
            table_rows(found),
        )
    if not all(each.is_clean for each in found):
        raise typer.Exit(1)


def table_rows(found: Iterable[TrainedCheckpoint]) -> list[tuple[str, ...]]:
    """A row for each checkpoint."""
    return [
        (
            str(each.folder),
            each.version,
            str(each.trained.users) if each.trained else "unknown",
            str(len(each.erased)) if each.trained else "unknown",
            "" if each.is_clean else "train it again: liveprofile model train --without-erased",
        )
        for each in found
    ]
