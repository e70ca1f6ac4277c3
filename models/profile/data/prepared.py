"""Training data as a recipe reads it: the split by time, vocabularies, the teacher."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from liveprofile.errors import InputError
from models.profile import checkpoint, vocabulary_expansion
from models.profile.data.examples import Corpus
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe


class Split(NamedTuple):
    """Windows of each part, and the time in ms at which it ends."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_until_ms: int
    validation_until_ms: int
    test_until_ms: int


class Prepared(NamedTuple):
    """Rows as a recipe reads them. Nothing of it depends on how the model is then trained."""

    corpus: Corpus
    parts: Split
    items: list[str]
    item_counts: np.ndarray
    categories: list[str]
    category_counts: np.ndarray
    teacher: Teacher | None


class Teacher(NamedTuple):
    """A checkpoint whose names, and as far as they fit its weights, another model begins with."""

    model: BehaviourTransformer
    items: list[str]
    categories: list[str]
    sha256: dict[str, str]
    revision: int
    trained_until_ms: int

    @classmethod
    def load(cls, folder: Path, recipe: Recipe) -> Teacher:
        """Raises InputError for one that reads events otherwise than the recipe's models."""
        model, items, categories, card = checkpoint.load(folder)
        for name in ("item_buckets", "category_buckets", "max_len"):
            theirs, ours = getattr(model.shape, name), getattr(recipe, name)
            if theirs != ours:
                raise InputError(
                    f"teacher {folder}: {name} = {theirs}, but recipe {recipe.name} has {ours}"
                )
        until = datetime.fromisoformat(card.data["train_until"])
        return cls(
            model, items, categories, card.sha256, card.revision, int(until.timestamp() * 1000)
        )

    def with_new(self, names: list[str], counts: np.ndarray, recipe: Recipe) -> Teacher:
        """With the items that it did not name and that came often enough; it answers as before."""
        known = set(self.items)
        often = zip(*most_frequent(names, counts, recipe.item_names), strict=True)
        new = [
            name for name, count in often if name not in known and count >= recipe.new_item_events
        ]
        if not new:
            return self
        model = vocabulary_expansion.with_items(
            self.model, *vocabulary_expansion.as_read(self.model, self.items, new)
        )
        model.eval().requires_grad_(False)
        return self._replace(model=model, items=[*self.items, *new])


def most_frequent(names: list[str], counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
    """The names seen most, and how often; ties by name. "" never."""
    counts[[code for code, name in enumerate(names) if not name]] = 0
    chosen = [code for code in np.argsort(-counts, kind="stable")[:limit] if counts[code] > 0]
    return [names[code] for code in chosen], counts[chosen]


def split(recipe: Recipe, end_ms_W: np.ndarray) -> Split:
    """By window end. Raises InputError if a part stays empty."""
    if recipe.validation_from and recipe.test_from:
        train_ms, validation_ms = _day_ms(recipe.validation_from), _day_ms(recipe.test_from)
    else:
        train_ms, validation_ms = (int(ms) for ms in np.quantile(end_ms_W, [0.7, 0.85]))
    parts = (
        np.flatnonzero(end_ms_W <= train_ms),
        np.flatnonzero((end_ms_W > train_ms) & (end_ms_W <= validation_ms)),
        np.flatnonzero(end_ms_W > validation_ms),
    )
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not len(part):
            raise InputError(f"recipe {recipe.name}: the rows have no window for {name}")
    return Split(*parts, train_ms, validation_ms, int(end_ms_W.max()))


def _day_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
