"""Walk-forward evaluation: a frozen model against one that is trained further every week.

Both models rank each week's events before either is trained on them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lab.user_model.next_events import gains, score_next_events
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.data.prepared import (
    Split,
    Teacher,
    add_replay,
    prepare_streams,
    trained_until_ms,
)
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.recipes import Recipe
from models.profile.training.train import fit

WEEK_MS = 7 * DAY_MS


def walk_forward(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    first: datetime,
    weeks: int,
    on_progress: Progress = lambda *_: None,
) -> list[dict[str, Any]]:
    """One row per week from `first` on, with NDCG@10 of next category and next item.

    A row has both models' values and the difference "continued" minus "frozen" with its 95 %
    interval over users. Raises InputError, also if the model checkpoint in `folder` was trained on
    windows from `first` on.
    """
    frozen = Teacher.load(folder, recipe)
    recipe = recipe.for_continued_training(frozen.model.shape, frozen.card.revision)
    streams = training_rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    first_ms = int(first.replace(tzinfo=UTC).timestamp() * 1000)
    if first_ms < trained_until_ms(frozen.card):
        raise InputError(f"model checkpoint {folder}: trained on windows after {first.date()}")
    random = np.random.default_rng(recipe.seed)
    continued, since_ms, rows = frozen, trained_until_ms(frozen.card), []
    for week in range(weeks):
        start_ms = first_ms + week * WEEK_MS
        windows = _windows_between(streams, start_ms, start_ms + WEEK_MS)
        if not len(windows):
            raise InputError(f"training rows {rows_path}: no window in week {week + 1}")
        continued = _continue_training(recipe, streams, continued, since_ms, start_ms, random)
        since_ms = start_ms
        gains = [_event_gains(recipe, streams, model, windows) for model in (frozen, continued)]
        row = {"week": _day(start_ms), "items": len(continued.items)}
        rows.append({**row, **_compare(streams, *gains)})
        on_progress("weeks", week + 1, weeks)
    return rows


def _continue_training(
    recipe: Recipe,
    streams: Streams,
    model: Teacher,
    since_ms: int,
    until_ms: int,
    random: np.random.Generator,
) -> Teacher:
    """Trains on the windows that end in (since_ms, until_ms] and a sample of earlier ones."""
    new = _windows_between(streams, since_ms, until_ms)
    if not len(new):
        return model
    train = add_replay(recipe, new, _windows_between(streams, 0, since_ms), random)
    none = np.empty(0, np.int64)
    split = Split(train, none, none, until_ms, until_ms, until_ms)
    data = prepare_streams(recipe, streams, split, model)
    trainer = fit(recipe, data)
    return model._replace(model=trainer.model)


def _event_gains(
    recipe: Recipe, streams: Streams, model: Teacher, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The M events of the windows as tokens, and the NDCG@10 of their categories and items."""
    corpus = build_corpus(
        streams,
        Vocabulary(model.items, recipe.item_buckets),
        Vocabulary(model.categories, recipe.category_buckets),
    )
    events = score_next_events(model.model, corpus, windows, recipe)
    return (
        events.source_M,
        gains(events.category_rank_M),
        gains(events.item_rank_M),
    )


def _compare(streams: Streams, frozen: tuple, continued: tuple) -> dict[str, Any]:
    """`frozen` and `continued` are results of `_event_gains`."""
    user_M = streams.user_W[np.searchsorted(streams.last_W, frozen[0], side="right")]
    bootstrap = UserBootstrap(user_M)
    metrics: dict[str, Any] = {"events": len(user_M)}
    for index, name in enumerate(("category", "item"), 1):
        difference = bootstrap.mean(continued[index], frozen[index])
        metrics[name] = {
            "frozen": round(float(frozen[index].mean()), 4),
            "continued": round(float(continued[index].mean()), 4),
            "continued_over_frozen": [round(float(value), 4) for value in difference],
        }
    return metrics


def _windows_between(streams: Streams, after_ms: int, until_ms: int) -> np.ndarray:
    return np.flatnonzero((streams.end_ms_W > after_ms) & (streams.end_ms_W <= until_ms))


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
