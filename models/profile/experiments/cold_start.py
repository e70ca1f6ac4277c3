"""How well items are ranked that a model never saw, by their vectors and without.

Cold items have no event in the training part. Each gets a row in one of three ways: of the items
whose vectors are like its own (models/profile/data/item_side_info.py); the mean of its category's rows; or its hash
bucket's, which is how the model reads it anyway. They are ranked where a user takes them for the
first time, among all items and among the cold ones alone; ties count as if broken at random. What
this costs the items that the model names is measured in the same windows.

Shape suffixes: N cold items, M events to predict, J items to rank, D model width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile import checkpoint, vocabulary_expansion
from models.profile.data import item_side_info, training_rows
from models.profile.data.batched_inference import Pass, passes
from models.profile.data.catalogue import Catalogue
from models.profile.data.examples import build
from models.profile.data.prepared import split
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary, spans
from models.profile.evaluation.intervals import Bootstrap
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

if TYPE_CHECKING:
    from models.profile.evaluation.evaluate import Part

TOP = 10
# What a place among the first is worth: recall, and NDCG with one relevant item.
WORTH = {"recall_at_10": np.ones(TOP), "ndcg_at_10": 1 / np.log2(np.arange(2, TOP + 2))}
EVENTS_AT_ONCE = 500  # bounds the memory


class Ranked(NamedTuple):
    """How the true items of M events do among others."""

    token_M: np.ndarray  # the event's, in the corpus
    above_M: np.ndarray  # items that are likelier
    ties_M: np.ndarray  # others that are as likely

    def mean(self, worth: np.ndarray) -> np.ndarray:
        """(M,) of what the first places are worth, over those that the item may have."""
        total = np.concatenate([[0.0], np.cumsum(worth)])
        first_M, last_M = self.above_M, self.above_M + self.ties_M + 1
        return (total[last_M.clip(max=TOP)] - total[first_M.clip(max=TOP)]) / (last_M - first_M)

    @classmethod
    def joined(cls, parts: Iterable[Ranked]) -> Ranked:
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def pick(self, index_M: np.ndarray) -> Ranked:
        return Ranked(*(column[index_M] for column in self))


class Found(NamedTuple):
    """First events with each cold item, and all events with a named one."""

    cold_among_all: Ranked
    cold_among_cold: Ranked
    named_among_all: Ranked


def report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    file: Path,
    part: Part,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Recall@10 and NDCG@10 of cold items, of the checkpoint in `folder` and the catalogue `file`.

    The rows are parted as the recipe says. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    catalogue = Catalogue.read(file)
    streams = training_rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    parts = split(recipe, streams.end_ms_W)
    windows = getattr(parts, part)
    described = set(catalogue.described()) - set(items)
    cold = [item for item in _new(streams, parts.train, windows) if item in described]
    if not cold:
        raise InputError(f"catalogue {file}: describes no item that is new in the {part} part")
    ways = {
        "vectors": item_side_info.like(model, items, catalogue, cold),
        "category": _of_category(model, items, streams, cold),
        "hash_bucket": vocabulary_expansion.as_read(model, items, cold),
    }
    corpus = build(
        streams,
        Vocabulary([*items, *cold], model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
        card.horizon_days,
    )
    cold_N = (corpus.item_N > len(items)) & (corpus.item_N <= len(items) + len(cold))
    windows = windows[np.add.reduceat(cold_N, streams.first_W)[windows] > 0]
    found = {}
    for way, added in ways.items():
        grown, done = vocabulary_expansion.with_items(model, *added).eval(), 0
        few: list[Found] = []
        for one in passes(grown, corpus, windows, recipe):
            few += _rank(grown, one, len(items))
            done += len(one.windows)
            on_progress(f"rank by {way}", done, len(windows))
        found[way] = Found(*map(Ranked.joined, zip(*few, strict=True)))
    metrics = {scope: _metrics(streams, found, scope) for scope in Found._fields}
    return {"version": card.version, "part": part, "cold_items": len(cold), **metrics}


def _new(streams: Streams, train_W: np.ndarray, windows: np.ndarray) -> list[str]:
    """Items of these windows that the training part lacks; "" never."""
    tokens = (spans(streams.first_W[part], streams.last_W[part]) for part in (train_W, windows))
    seen, there = (
        np.bincount(streams.item_N[part], minlength=len(streams.items)) > 0 for part in tokens
    )
    return [streams.items[code] for code in np.flatnonzero(there & ~seen) if streams.items[code]]


def _of_category(
    model: BehaviourTransformer, items: list[str], streams: Streams, cold: list[str]
) -> tuple[Tensor, Tensor]:
    """As the mean of the items that the model names of the same category; of all where there is
    none. An item's category is that of its last event."""
    category_of = np.zeros(len(streams.items), np.int64)
    category_of[streams.item_N] = streams.category_N
    code = {name: code for code, name in enumerate(streams.items)}
    named = [place for place, name in enumerate(items) if name in code]
    start = model.shape.layout.item + 1
    row_JD, bias_J = model.table.detach()[start + torch.tensor(named)], model.item_bias.detach()
    columns_JX = torch.cat([row_JD, row_JD.norm(dim=1, keepdim=True), bias_J[named, None]], 1)
    category_J = torch.from_numpy(category_of[[code[items[place]] for place in named]])
    sums = columns_JX.new_zeros(len(streams.categories), columns_JX.shape[1])
    sums.index_add_(0, category_J, columns_JX)
    counts = torch.bincount(category_J, minlength=len(sums))[:, None]
    means = torch.where(counts > 0, sums / counts.clamp(min=1), columns_JX.mean(0))
    mean_NX = means[torch.from_numpy(category_of[[code[name] for name in cold]])]
    return item_side_info.from_means(mean_NX[:, :-2], mean_NX[:, -2], mean_NX[:, -1], bias_J.min())


def _rank(model: BehaviourTransformer, one: Pass, named: int) -> Iterator[Found]:
    """Of the windows' own events, some at a time. The model's first `named` items are not cold."""
    batch, segments = one.examples, one.segments
    target_M = np.flatnonzero(segments.scored_N & (batch.item_N > 0))
    target_M = target_M[batch.item_N[target_M] <= model.shape.items]
    had_BJ = torch.from_numpy(batch.had_item_B.dense(segments.rows, 1 + model.shape.items)[:, 1:])
    for part_M in np.array_split(target_M, 1 + len(target_M) // EVENTS_AT_ONCE):
        h_MD = one.h_PD[torch.from_numpy(batch.place_N[part_M] - 1)]
        had_MJ = had_BJ[torch.from_numpy(segments.row_N[part_M])]
        logits_MJ = torch.addcmul(model.item_logits(h_MD), model.repeats(h_MD)[1], had_MJ)
        item_M1 = torch.from_numpy(batch.item_N[part_M] - 1).long()[:, None]
        true_M1 = logits_MJ.gather(1, item_M1)
        among_all, among_cold = (
            Ranked(
                segments.source_N[part_M],
                (logits > true_M1).sum(1).numpy(),
                (logits == true_M1).sum(1).numpy() - 1,
            )
            for logits in (logits_MJ, logits_MJ[:, named:])
        )
        named_M1, first_M1 = item_M1 < named, had_MJ.gather(1, item_M1) == 0
        cold_M, named_M = (x.squeeze(1).numpy() for x in (first_M1 & ~named_M1, named_M1))
        yield Found(among_all.pick(cold_M), among_cold.pick(cold_M), among_all.pick(named_M))


def _metrics(streams: Streams, found: dict[str, Found], scope: str) -> dict[str, Any]:
    ranked = {way: getattr(one, scope) for way, one in found.items()}
    token_M = ranked["vectors"].token_M
    if not len(token_M):
        return {"events": 0}
    drawn = Bootstrap(streams.user_W[np.searchsorted(streams.last_W, token_M, side="right")])
    metrics: dict[str, Any] = {"events": len(token_M)}
    for way, one in ranked.items():
        means = {name: one.mean(worth) for name, worth in WORTH.items()}
        metrics[way] = {name: _round(mean_M.mean()) for name, mean_M in means.items()}
        if way != "vectors":
            metrics[f"vectors_over_{way}"] = {
                name: [_round(x) for x in drawn.mean(ranked["vectors"].mean(WORTH[name]), mean_M)]
                for name, mean_M in means.items()
            }
    return metrics


def _round(value: float) -> float:
    return round(float(value), 4)
