"""How well items are ranked that a model never saw, by their vectors and without.

Cold items have no event in the training part. Each gets a row in one of three ways: of the items
whose vectors are like its own (models/sides.py); the mean of its category's rows; or its hash
bucket's, which is how the model reads it anyway. They are ranked where a user takes them for the
first time, among all items and among the cold ones alone; ties count as if broken at random. What
this costs the items that the model names is measured in the same windows.

Shape suffixes: N cold items, M events to predict, J items to rank, D model width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.errors import InputError
from models import Progress, checkpoint, grow, rows, sides
from models.baselines.intervals import Bootstrap
from models.catalogue import Catalogue
from models.encode import Vocabulary, spans
from models.passes import Pass, passes
from models.recipes import Recipe
from models.rows import Streams
from models.segments import build
from models.train import split
from models.transformer import BehaviourTransformer

if TYPE_CHECKING:
    from models.evaluate import Part

TOP = 10
HITS, GAINS = np.ones(TOP), 1 / np.log2(np.arange(2, TOP + 2))


class Ranked(NamedTuple):
    """How the true items of M events do among others."""

    above_M: np.ndarray  # items that are likelier
    ties_M: np.ndarray  # others that are as likely

    def mean(self, worth: np.ndarray) -> np.ndarray:
        """(M,) of what the first places are worth, over those that the item may have."""
        total = np.concatenate([[0.0], np.cumsum(worth)])
        first_M, last_M = self.above_M, self.above_M + self.ties_M + 1
        return (total[last_M.clip(max=TOP)] - total[first_M.clip(max=TOP)]) / (last_M - first_M)


class Found(NamedTuple):
    """The events of some windows."""

    cold_M: np.ndarray  # token of the corpus, of events with a cold item
    cold_among_all: Ranked
    cold_among_cold: Ranked
    named_among_named: Ranked  # of events with an item that the model names
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
    streams = rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    parts = split(recipe, streams.end_ms_W)
    windows = getattr(parts, part)
    described = set(catalogue.described()) - set(items)
    cold = [item for item in _new(streams, parts.train, windows) if item in described]
    if not cold:
        raise InputError(f"catalogue {file}: describes no item that is new in the {part} part")
    ways = {
        "vectors": sides.like(model, items, catalogue, cold),
        "category": _of_category(model, items, streams, cold),
        "hash_bucket": grow.as_read(model, items, cold),
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
        grown = grow.with_items(model, *added).eval()
        ranked, done = [], 0
        for one in passes(grown, corpus, windows, recipe):
            ranked.append(_rank(grown, one, len(items)))
            done += len(one.windows)
            on_progress(f"rank by {way}", done, len(windows))
        found[way] = _joined(ranked)
    if not len(found["vectors"].cold_M):
        raise InputError(
            f"no user takes a new item of {file} for the first time in the {part} part"
        )
    return {
        "version": card.version,
        "part": part,
        "cold_items": len(cold),
        "events": len(found["vectors"].cold_M),
        **_metrics(streams, found),
    }


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
    return sides.from_means(mean_NX[:, :-2], mean_NX[:, -2], mean_NX[:, -1], bias_J.min())


def _rank(model: BehaviourTransformer, one: Pass, named: int) -> Found:
    """Of the windows' own events. The first `named` items of the model are not cold."""
    batch, segments = one.examples, one.segments
    target_M = np.flatnonzero(segments.scored_N & (batch.item_N > 0))
    target_M = target_M[batch.item_N[target_M] <= model.shape.items]
    h_MD = one.h_PD[torch.from_numpy(batch.place_N[target_M] - 1)]
    had_BJ = batch.had_item_B.dense(segments.rows, 1 + model.shape.items)[:, 1:]
    had_MJ = torch.from_numpy(had_BJ[segments.row_N[target_M]])
    logits_MJ = torch.addcmul(model.item_logits(h_MD), model.repeats(h_MD)[1], had_MJ)
    item_M1 = torch.from_numpy(batch.item_N[target_M] - 1).long()[:, None]
    true_M1 = logits_MJ.gather(1, item_M1)
    is_cold_M = item_M1.squeeze(1) >= named
    first_M = had_MJ.gather(1, item_M1).squeeze(1) == 0

    def ranked(events_M: Tensor, among: slice) -> Ranked:
        logits, true = logits_MJ[events_M, among], true_M1[events_M]
        above_M, ties_M = (logits > true).sum(1), (logits == true).sum(1) - 1
        return Ranked(above_M.numpy(), ties_M.numpy())

    cold_M = is_cold_M & first_M
    return Found(
        segments.source_N[target_M][cold_M.numpy()],
        ranked(cold_M, slice(None)),
        ranked(cold_M, slice(named, None)),
        ranked(~is_cold_M, slice(named)),
        ranked(~is_cold_M, slice(None)),
    )


def _joined(parts: list[Found]) -> Found:
    tokens, *ranked = zip(*parts, strict=True)
    columns = (Ranked(*map(np.concatenate, zip(*one, strict=True))) for one in ranked)
    return Found(np.concatenate(tokens), *columns)


def _metrics(streams: Streams, found: dict[str, Found]) -> dict[str, Any]:
    cold_M = found["vectors"].cold_M
    drawn = Bootstrap(streams.user_W[np.searchsorted(streams.last_W, cold_M, side="right")])
    report: dict[str, Any] = {}
    for scope in ("cold_among_all", "cold_among_cold"):
        ranked = {way: getattr(one, scope) for way, one in found.items()}
        report[scope] = {
            way: {
                "recall_at_10": _round(one.mean(HITS).mean()),
                "ndcg_at_10": _round(one.mean(GAINS).mean()),
                "median_rank": _round(np.median(one.above_M + one.ties_M / 2)),
            }
            for way, one in ranked.items()
        }
        for other in ("category", "hash_bucket"):
            report[scope][f"vectors_over_{other}"] = {
                name: [
                    _round(x)
                    for x in drawn.mean(*(ranked[w].mean(worth) for w in ("vectors", other)))
                ]
                for name, worth in (("recall_at_10", HITS), ("ndcg_at_10", GAINS))
            }
    report["named"] = {
        f"ndcg_at_10_{scope}": _round(
            getattr(found["vectors"], f"named_{scope}").mean(GAINS).mean()
        )
        for scope in ("among_named", "among_all")
    }
    return report


def _round(value: float) -> float:
    return round(float(value), 4)
