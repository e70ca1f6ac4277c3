"""Prepares training data for a recipe: the split by time, the vocabularies and the teacher.

Shape suffix: W windows of the corpus.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.privacy import trained_users
from liveprofile.privacy.trained_users import TrainedUsers
from models.profile import checkpoint, vocabulary_expansion
from models.profile.data.examples import Corpus
from models.profile.model_card import ModelCard
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe


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
    sha256: dict[str, str]
    revision: int
    trained_until_ms: int
    is_refitted: bool  # trained on windows that had chosen it
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
        return cls(
            model,
            items,
            categories,
            card.sha256,
            card.revision,
            trained_until_ms(card),
            "refit" in card.data,
            trained_users.read(folder),
        )

    def with_new_items(self, names: list[str], counts: np.ndarray, recipe: Recipe) -> Teacher:
        """Adds the frequent items that it does not name yet. Its outputs do not change.

        An item needs at least recipe.new_item_events events. counts: events of each of `names`.
        """
        known = set(self.items)
        frequent = zip(*most_frequent(names, counts, recipe.item_names), strict=True)
        new = [
            name
            for name, count in frequent
            if name not in known and count >= recipe.new_item_events
        ]
        if not new:
            return self
        model = vocabulary_expansion.add_items(
            self.model, vocabulary_expansion.hash_bucket_rows(self.model, self.items, new)
        )
        model.eval().requires_grad_(False)
        return self._replace(model=model, items=[*self.items, *new])


def trained_until_ms(card: ModelCard) -> int:
    """The end of the last window of a model's training."""
    return int(card.trained_until.timestamp() * 1000)


def refuse_trained_part(
    folder: Path, card: ModelCard, split: Split, part: Literal["validation", "test"]
) -> None:
    """Raises InputError if the model was trained on windows of the part that shall measure it."""
    until_ms = trained_until_ms(card)
    before = split.train_until_ms if part == "validation" else split.validation_until_ms
    if until_ms <= before:
        return
    remedy = "train it without --refit, or read the figures before the refit in its card"
    if "refit" not in card.data:
        remedy = "use the rows of its training, or newer ones"
    elif part == "validation" and until_ms <= split.validation_until_ms:
        remedy = "use --part test, or train it without --refit"
    raise InputError(
        f"model checkpoint {folder}: was trained on the {part} part (windows up to"
        f" {card.data['train_until']}), which cannot measure it; {remedy}"
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
