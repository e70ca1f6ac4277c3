"""Week by week: a model that stays as it is beside one that goes on with each week that has passed.

Each week is ranked by both before either has seen any of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.examples import build
from models.profile.data.prepared import Split, Teacher
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation.baselines import user_frequency
from models.profile.evaluation.evaluate import next_events
from models.profile.evaluation.intervals import Bootstrap
from models.profile.recipes import Recipe
from models.profile.training.train import arrange, fit

WEEK_MS = 7 * DAY_MS


def walk_forward(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    first: datetime,
    weeks: int,
    on_progress: Progress = lambda *_: None,
) -> list[dict[str, Any]]:
    """A row a week from `first` on: NDCG@10 of next category and next item of both models, and how
    much the one that goes on is better, with a 95 % interval over users.

    The checkpoint in `folder` must have been trained on nothing from `first` on. Raises InputError.
    """
    frozen = Teacher.load(folder, recipe)
    recipe = recipe.going_on(frozen.model.shape, frozen.revision)
    streams = training_rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    first_ms = int(first.replace(tzinfo=UTC).timestamp() * 1000)
    if first_ms < frozen.trained_until_ms:
        raise InputError(f"model checkpoint {folder}: trained on windows behind {first.date()}")
    random = np.random.default_rng(recipe.seed)
    going, since_ms, found = frozen, frozen.trained_until_ms, []
    for week in range(weeks):
        start_ms = first_ms + week * WEEK_MS
        windows = _between(streams, start_ms, start_ms + WEEK_MS)
        if not len(windows):
            raise InputError(f"training rows {rows_path}: no window in week {week + 1}")
        going = _gone_on(recipe, streams, going, since_ms, start_ms, random)
        since_ms = start_ms
        gains = [_gains(recipe, streams, one, windows) for one in (frozen, going)]
        named = {"week": _day(start_ms), "items": len(going.items)}
        found.append({**named, **_compared(streams, *gains)})
        on_progress("weeks", week + 1, weeks)
    return found


def _gone_on(
    recipe: Recipe,
    streams: Streams,
    model: Teacher,
    since_ms: int,
    until_ms: int,
    random: np.random.Generator,
) -> Teacher:
    """The model after the windows that ended in (since, until], and a sample of those before."""
    new, old = _between(streams, since_ms, until_ms), _between(streams, 0, since_ms)
    if not len(new):
        return model
    again = int(len(new) * recipe.replay_share / (1 - recipe.replay_share))
    train = np.sort(np.concatenate([new, random.permutation(old)[:again]]))
    none = np.empty(0, np.int64)
    parts = Split(train, none, none, until_ms, until_ms, until_ms)
    data = arrange(recipe, streams, parts, model, goes_on=True)
    trainer = fit(recipe, data)
    return data.teacher._replace(model=trainer.model)


def _gains(
    recipe: Recipe, streams: Streams, one: Teacher, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events (M,) and the gains of their categories and items."""
    corpus = build(
        streams,
        Vocabulary(one.items, recipe.item_buckets),
        Vocabulary(one.categories, recipe.category_buckets),
        recipe.horizon_days,
    )
    events = next_events(one.model, corpus, windows, recipe)
    return (
        events.source_M,
        user_frequency.gains(events.category_rank_M),
        user_frequency.gains(events.item_rank_M),
    )


def _compared(streams: Streams, frozen: tuple, going: tuple) -> dict[str, Any]:
    user_M = streams.user_W[np.searchsorted(streams.last_W, frozen[0], side="right")]
    drawn = Bootstrap(user_M)
    report: dict[str, Any] = {"events": len(user_M)}
    for place, name in enumerate(("category", "item"), 1):
        better = drawn.mean(going[place], frozen[place])
        report[name] = {
            "frozen": round(float(frozen[place].mean()), 4),
            "continued": round(float(going[place].mean()), 4),
            "continued_over_frozen": [round(float(value), 4) for value in better],
        }
    return report


def _between(streams: Streams, after_ms: int, until_ms: int) -> np.ndarray:
    return np.flatnonzero((streams.end_ms_W > after_ms) & (streams.end_ms_W <= until_ms))


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
