"""Prepares training data from rows: the split by time, the vocabularies, the corpus, the teacher.

Shape suffixes: W windows of the corpus, I items of the streams, C categories of the streams.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models import trained_users
from models.profile import checkpoint
from models.profile.data import training_rows
from models.profile.data.examples import Corpus, build_corpus
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.model_card import ModelCard
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.text_encoder import TextEncoder
from models.trained_users import TrainedUsers

SplitName = Literal["validation", "test"]


class Split(NamedTuple):
    """Windows of the train, validation and test split, and the time at which each split ends."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_until_ms: int
    validation_until_ms: int
    test_until_ms: int


class PreparedData(NamedTuple):
    """Training data of a recipe, independent of the hyperparameters of training."""

    corpus: Corpus
    split: Split
    items: list[str]
    item_counts: np.ndarray
    categories: list[str]
    category_counts: np.ndarray
    teacher: Teacher | None


class Teacher(NamedTuple):
    """A model checkpoint from which training continues.

    The new model starts with its vocabularies and with those of its weights whose shapes match.
    """

    model: BehaviourTransformer
    items: list[str]
    categories: list[str]
    card: ModelCard
    trained_users: TrainedUsers | None  # None: unknown

    @classmethod
    def load(cls, folder: Path, recipe: Recipe) -> Teacher:
        """Loads a teacher. Raises InputError if it encodes events differently than the recipe."""
        model, items, categories, card = checkpoint.load(folder)
        for name in ("item_buckets", "category_buckets", "max_len"):
            actual, expected = getattr(model.shape, name), getattr(recipe, name)
            if actual != expected:
                raise InputError(
                    f"teacher {folder}: {name} = {actual}, but recipe {recipe.name} has {expected}"
                )
        return cls(model, items, categories, card, trained_users.read(folder))


def trained_until_ms(card: ModelCard) -> int:
    """The end of the last window of a model's training."""
    return int(card.trained_until.timestamp() * 1000)


def refuse_trained_part(folder: Path, card: ModelCard, split: Split, part: SplitName) -> None:
    """Raises InputError if the model was trained on windows of the part that shall measure it."""
    before = split.train_until_ms if part == "validation" else split.validation_until_ms
    if trained_until_ms(card) <= before:
        return
    raise InputError(
        f"model checkpoint {folder}: was trained on the {part} part (windows up to"
        f" {card.data['train_until']}), which cannot measure it; use a later part or newer rows,"
        " or train it without --refit"
    )


def most_frequent(names: list[str], counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
    """The most frequent names and their counts. Ties keep the order of `names`.

    "" is left out: its entry in `counts` is set to 0 in place.
    """
    counts[[code for code, name in enumerate(names) if not name]] = 0
    chosen = [code for code in np.argsort(-counts, kind="stable")[:limit] if counts[code] > 0]
    return [names[code] for code in chosen], counts[chosen]


def split_by_time(recipe: Recipe, end_ms_W: np.ndarray) -> Split:
    """Splits windows by their ends. Raises InputError if a split is empty."""
    if recipe.validation_from and recipe.test_from:
        train_ms, validation_ms = _day_ms(recipe.validation_from), _day_ms(recipe.test_from)
    else:
        train_ms, validation_ms = (int(ms) for ms in np.quantile(end_ms_W, [0.7, 0.85]))
    windows = (
        np.flatnonzero(end_ms_W <= train_ms),
        np.flatnonzero((end_ms_W > train_ms) & (end_ms_W <= validation_ms)),
        np.flatnonzero(end_ms_W > validation_ms),
    )
    for name, part in zip(("training", "validation", "test"), windows, strict=True):
        if not len(part):
            raise InputError(f"recipe {recipe.name}: the rows have no window for {name}")
    return Split(*windows, train_ms, validation_ms, int(end_ms_W.max()))


def _day_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def prepare(
    recipe: Recipe,
    rows_path: Path,
    on_progress: Progress = lambda *_: None,
    teacher: Teacher | None = None,
    incremental: bool = False,
    encode_texts: TextEncoder | None = None,
    without: Collection[str] = (),
) -> PreparedData:
    """Reads rows of all users except those of `without`, splits them and builds the corpus.

    `incremental` continues the teacher's training on windows after its own training. `encode_texts`
    is that of `training_rows.read`. Raises InputError for rows that the recipe cannot use.
    """
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts, without
    )
    if incremental:
        random, since_ms = np.random.default_rng(recipe.seed), trained_until_ms(teacher.card)
        split = split_new_windows(recipe, streams.end_ms_W, since_ms, random)
    else:
        split = split_by_time(recipe, streams.end_ms_W)
    data = prepare_streams(recipe, streams, split, teacher)
    if not data.items:
        raise InputError(f"training rows {rows_path}: no event of the training part has an item")
    last_labelled_ms = split.train_until_ms - recipe.horizon_days * DAY_MS
    if not incremental and not (streams.end_ms_W[split.train] <= last_labelled_ms).any():
        raise InputError(
            f"training rows {rows_path}: shorter than the recipe's horizon of"
            f" {recipe.horizon_days} days; use a recipe with a shorter horizon"
        )
    return data


def prepare_streams(
    recipe: Recipe, streams: Streams, split: Split, teacher: Teacher | None = None
) -> PreparedData:
    """Builds the corpus and the vocabularies: the teacher's, or the most frequent names."""
    counts_I, counts_C = _event_counts(streams, split.train)
    if teacher:
        items, categories = teacher.items, teacher.categories
        item_counts = _counts_by_name(items, streams.items, counts_I)
        category_counts = _counts_by_name(categories, streams.categories, counts_C)
    else:
        items, item_counts = most_frequent(streams.items, counts_I, recipe.item_names)
        categories, category_counts = most_frequent(
            streams.categories, counts_C, recipe.category_names
        )
    corpus = build_corpus(
        streams,
        Vocabulary(items, recipe.item_buckets),
        Vocabulary(categories, recipe.category_buckets),
    )
    return PreparedData(corpus, split, items, item_counts, categories, category_counts, teacher)


def prepare_refit(recipe: Recipe, data: PreparedData, part: SplitName) -> PreparedData:
    """The data of a training on all windows up to the end of `part`, which nothing chooses by.

    The names are chosen anew, or are the teacher's.
    """
    split, none = data.split, np.empty(0, np.int64)
    train, later = np.union1d(split.train, split.validation), split.test
    until_ms = split.validation_until_ms
    if part == "test":
        train, later, until_ms = np.union1d(train, split.test), none, split.test_until_ms
    refit = Split(train, none, later, until_ms, until_ms, split.test_until_ms)
    return prepare_streams(recipe, data.corpus.streams, refit, data.teacher)


def split_new_windows(
    recipe: Recipe, end_ms_W: np.ndarray, since_ms: int, random: np.random.Generator
) -> Split:
    """Splits the windows that end after `since_ms` into train and validation (the last ones).

    The train split also has a replay sample of earlier windows. The test split is empty, since the
    windows that follow have not arrived yet. Raises InputError if a split has no new window.
    """
    new_W = end_ms_W > since_ms
    if not new_W.any():
        raise InputError(f"no new training rows: no window ends after {iso_utc(since_ms)}")
    until_ms = int(np.quantile(end_ms_W[new_W], 1 - recipe.continue_validation_share))
    train, old = np.flatnonzero(new_W & (end_ms_W <= until_ms)), np.flatnonzero(~new_W)
    if not len(train):
        raise InputError(
            f"all windows after {iso_utc(since_ms)} end at the same time: no split for validation"
        )
    last_ms = int(end_ms_W.max())
    return Split(
        add_replay(recipe, train, old, random),
        np.flatnonzero(end_ms_W > until_ms),
        np.empty(0, np.int64),
        until_ms,
        last_ms,
        last_ms,
    )


def add_replay(
    recipe: Recipe, new: np.ndarray, old: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The new windows and a sample of old ones against forgetting, sorted.

    The sample is `recipe.replay_share` of the result, if there are enough old windows.
    """
    replayed = int(len(new) * recipe.replay_share / (1 - recipe.replay_share))
    return np.sort(np.concatenate([new, random.permutation(old)[:replayed]]))


def _event_counts(streams: Streams, windows: np.ndarray) -> list[np.ndarray]:
    """(I,) and (C,) number of events of each item and category in these windows."""
    is_chosen_W = np.zeros(len(streams.user_W), bool)
    is_chosen_W[windows] = True
    is_chosen_N = np.repeat(is_chosen_W, streams.last_W - streams.first_W)
    columns = (streams.item_N, streams.items), (streams.category_N, streams.categories)
    return [np.bincount(code_N[is_chosen_N], minlength=len(names)) for code_N, names in columns]


def _counts_by_name(names: list[str], stream_names: list[str], counts: np.ndarray) -> np.ndarray:
    """The count of each name, at least 1, because every name must have a chance to be sampled."""
    count_of = dict(zip(stream_names, counts.tolist(), strict=True))
    return np.array([max(1, count_of.get(name, 0)) for name in names])


def iso_utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
