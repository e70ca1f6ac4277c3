"""What the job would have stored after each window of the training rows, against baseline models.

`ProfileModel.score` is called with the tokens that the operator passes, so the rankings are the
served ones, with the served candidates.

Shape suffixes: W windows, K places of a ranking.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from liveprofile.errors import InputError
from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from liveprofile.resources import ROOT
from liveprofile.units import DAY_MS
from liveprofile.value_curves import VALUES, ValueCurves
from liveprofile.wire.histories import (
    MEMORY_WINDOWS,
    Memories,
    MemoryToken,
    read_memories,
    window_text,
)
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import WINDOW
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.data.moments import Moments, user_features_at
from models.profile.data.prepared import SplitName, refuse_trained_part, split_by_time
from models.profile.data.training_rows import Streams
from models.profile.device import passes
from models.profile.encoding import Vocabulary, concatenated_ranges
from models.profile.evaluation.any_time import (
    Baseline,
    Predictions,
    any_time_report,
    linear_baselines,
)
from models.profile.evaluation.next_basket import (
    KINDS,
    Kind,
    codes_of,
    compare_rankings,
    next_baskets,
    subset,
)
from models.profile.evaluation.next_basket_baselines import RankBaselines, rank_baselines
from models.profile.inference import ProfileModel, Scores
from models.profile.recipes import Recipe
from models.profile.user_features import FEATURE_NAMES

WINDOWS_PER_CALL = 2_000
MOST_WINDOWS = 50_000  # random ones of a larger split: bounds memory and time


class ServedRankings(NamedTuple):
    """(W, K) codes of the streams, best first."""

    item: np.ndarray
    category: np.ndarray


def stored_scores(
    model: ProfileModel,
    streams: Streams,
    windows: np.ndarray,
    user_features_WX: np.ndarray,
    history_windows: int,
) -> Iterator[tuple[slice, Scores]]:
    """Yields slices of `windows` with their scores, WINDOWS_PER_CALL at a time.

    user_features_WX: at the windows' ends; the values before a window are none of this. With no
    history_windows, what depends on the Transformer is not the stored one.
    """
    for part in passes(len(windows), WINDOWS_PER_CALL):
        window_W = windows[part]
        yield (
            part,
            model.score(
                _tokens(streams, _first_of_history(streams, window_W, history_windows), window_W),
                _tokens(streams, window_W, window_W + 1),
                user_features_WX[part],
                user_features_WX[part],
                (),
                _memories(streams, window_W),
            ),
        )


def served_rankings(
    model: ProfileModel,
    streams: Streams,
    windows: np.ndarray,
    history_windows: int,
    on_progress: Progress = lambda *_: None,
) -> ServedRankings:
    """The `next_items` and `interests` that are stored after each of `windows`.

    The user features are zero: no ranking depends on them.
    """
    items, categories = [], []
    user_features_WX = np.zeros((len(windows), len(FEATURE_NAMES)), np.float32)
    for part, scores in stored_scores(model, streams, windows, user_features_WX, history_windows):
        items.append(codes_of(scores.next_items, model.items, streams.items))
        categories.append(codes_of(scores.interests_after, model.categories, streams.categories))
        on_progress("served rankings", part.stop, len(windows))
    return ServedRankings(np.concatenate(items), np.concatenate(categories))


def served_values(
    model: ProfileModel,
    streams: Streams,
    moments: Moments,
    user_features_WX: np.ndarray,
    horizon_days: int,
    on_progress: Progress = lambda *_: None,
) -> Predictions:
    """What the curves that each moment's window has stored say at the moment.

    user_features_WX: at the ends of the moments' windows. Predictions of nothing if the model has
    no curve of this horizon.
    """
    parts = []
    for part, scores in stored_scores(model, streams, moments.window_M, user_features_WX, 0):
        windows = moments.window_M[part]
        stored = scores.value_curves
        if horizon_days not in stored.horizon_days:
            return Predictions()
        horizon = stored.horizon_days.index(horizon_days)
        curves = ValueCurves(
            np.tile(stored.after_days, (len(windows), 1)),
            {name: value_BHK[:, horizon] for name, value_BHK in stored.values_BHK.items()},
        )
        elapsed_ms = moments.at_ms_M[part] - streams.end_ms_W[windows]
        parts.append(curves.at(elapsed_ms / DAY_MS))
        on_progress("served values", part.stop, len(moments.window_M))
    values = {name: np.concatenate([part[name] for part in parts]) for name in VALUES}
    return Predictions(values["churn"], values["expected_spend"], values["purchase_in_days"])


def _memories(streams: Streams, windows: np.ndarray) -> Memories:
    """The memory after each of `windows`."""
    first_W = _first_of_history(streams, windows, MEMORY_WINDOWS - 1)
    window_V = concatenated_ranges(first_W, windows + 1)
    kept, index_V = np.unique(window_V, return_inverse=True)
    tokens = _tokens(streams, kept, kept + 1)
    columns = zip(tokens.type_index.tolist(), tokens.item, tokens.category, strict=True)
    known = [MemoryToken(*token) for token in columns]
    ends = zip(streams.end_ms_W[kept].tolist(), itertools.pairwise(tokens.starts), strict=True)
    of_window = [window_text(end_ms, known[slice(*part)]) for end_ms, part in ends]
    of_row = np.split(index_V, np.cumsum(windows + 1 - first_W)[:-1])
    return read_memories(
        [WINDOW.join(of_window[index] for index in row.tolist()) for row in of_row]
    )


def _first_of_history(streams: Streams, windows: np.ndarray, history_windows: int) -> np.ndarray:
    first_of_user = np.searchsorted(streams.user_W, streams.user_W[windows])
    return np.maximum(windows - history_windows, first_of_user)


def _tokens(streams: Streams, first_W: np.ndarray, end_W: np.ndarray) -> TokenColumns:
    """The tokens of the windows from first_W[i] to end_W[i] - 1, one row for each i."""
    ends = np.append(streams.first_W, len(streams.item_N))
    first, end = ends[first_W], ends[end_W]
    token_N = concatenated_ranges(first, end)
    return TokenColumns(
        np.concatenate([[0], np.cumsum(end - first)]),
        streams.time_ms_N[token_N],
        streams.type_N[token_N],
        [streams.items[code] for code in streams.item_N[token_N].tolist()],
        [streams.categories[code] for code in streams.category_N[token_N].tolist()],
        streams.amount_N[token_N],
    )


def checkpoint_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
    rank: RankBaselines = rank_baselines,
    fit_values: Callable[..., dict[str, Baseline]] = linear_baselines,
) -> dict[str, Any]:
    """The metrics of the model checkpoint in `folder` and of the baseline models.

    The recipe splits the rows by time. fit_values: from corpus and recipe, then as FitBaselines.
    Raises InputError, also for a model that was trained on windows of the split.
    """
    model, items, categories, card = checkpoint.load(folder)
    encode_texts = text_encoder.encode if TEXT in model.fusion.modalities else None
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts
    )
    split = split_by_time(recipe, streams.end_ms_W)
    refuse_trained_part(folder, card, split, split_name)
    corpus = build_corpus(
        streams,
        Vocabulary(items, model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
    )
    served = ProfileModel.load(folder, device="cpu")

    def next_basket(kind: Kind) -> dict[str, Any] | None:
        """Metrics by part (all, repeat, explore); None if no window has a successor."""
        targets = next_baskets(streams, kind, getattr(split, split_name))
        targets = subset(targets, MOST_WINDOWS)
        if not len(targets.window_W):
            return None
        ranking = served_rankings(
            served, streams, targets.window_W, recipe.history_windows, on_progress
        )
        baselines = rank(streams, kind, split, targets, split_name == "test", on_progress)
        rankings = {name: baseline.ranking_RK for name, baseline in baselines.items()}
        return {
            **compare_rankings(targets, getattr(ranking, kind), rankings),
            "chosen": {name: baseline.settings for name, baseline in baselines.items()},
        }

    def stored_values(moments: Moments, days: int) -> Predictions:
        """What the curves that each user's last window has stored say at the moment."""
        end_ms_M = streams.end_ms_W[moments.window_M]
        features_MX = user_features_at(corpus, recipe, moments.window_M, end_ms_M)
        return served_values(served, streams, moments, features_MX, days, on_progress)

    fit = partial(fit_values, corpus, recipe)
    return {
        "version": card.version,
        "part": split_name,
        "rows": streams.fingerprint(),
        "next_basket": {kind: next_basket(kind) for kind in KINDS},
        "any_time": any_time_report(streams, split, split_name, stored_values, fit, on_progress),
    }


def logged(file: Path, recipe: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns `measure()`, a report on a test part, after appending it to the log.

    The report has "version" (of the checkpoint) and "rows" (the fingerprint of the data); the rest
    are the figures. Raises InputError before measuring if the log cannot be written: no look may go
    unlogged.
    """
    try:
        with file.open("ab") as log:
            report = measure()
            look = {
                "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "commit": _commit(),
                "recipe": recipe,
                "checkpoint": report["version"],
                "rows": report["rows"],
                "figures": {key: report[key] for key in report if key not in ("version", "rows")},
            }
            log.write(orjson.dumps(look) + b"\n")
    except OSError as error:
        raise InputError(f"test log {file}: {error.strerror}") from None
    return report


def _commit() -> str:
    """The commit of the code, with "+changes" if files differ from it; "" without a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
