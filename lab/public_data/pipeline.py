"""From a file of events to a trained user model, with the product's backfill and training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from liveprofile.progress import Progress
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from models.profile.recipes import Recipe
from models.profile.training.train import train
from offline.backfill import PROFILE_ROWS, backfill_rows

CONFIG = f"[window]\nlength_ms = {DAY_MS}\n"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def training_rows(events: Path, work: Path, mapping: Path | None = None) -> Path:
    """The folder of the rows of `events`, in windows of a day.

    work: keeps them; a later call with it does not run the backfill again. Raises InputError and
    ServiceError.
    """
    rows, partial, config = work / "rows", work / "rows.partial", work / "config.toml"
    if not rows.exists():
        config.write_text(CONFIG)
        shutil.rmtree(partial, ignore_errors=True)  # of a killed backfill
        result = backfill_rows(
            load(config),
            PROFILE_ROWS,
            partial,
            config=config,
            source=events,
            mapping=mapping,
            cluster=False,
            on_step=log,
        )
        log(f"{result.events} events, {result.rows} windows")
        partial.rename(rows)
    return rows


def trained_model(recipe: Recipe, rows: Path, work: Path, on_progress: Progress) -> Path:
    """The checkpoint folder of a model of `rows`. Resumes, and reuses, what is in `work`."""
    folder = work / "model"
    if not (folder / "card.json").exists():
        train(recipe, rows, folder, on_progress, log, device="auto")
    return folder
