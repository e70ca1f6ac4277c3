"""Ranking quality of cold items: items without events in the training split.

A cold item's embedding row comes from one of three methods: the items whose vectors are similar
(lab/catalogue/item_side_info.py), the mean of its category's rows, or its hash bucket, which
is what the model uses anyway. Cold items are ranked where a user takes them for the first time,
among all items and among the cold items alone. Ties count as if broken at random. The named items
are ranked in the same windows, to measure what the additional rows cost them.

Shape suffixes: N cold items, M events to predict, J items to rank, D model width, X = D + 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lab.catalogue import item_side_info
from lab.catalogue.catalogue import Catalogue
from lab.catalogue.new_items import NewItems, add_items, hash_bucket_rows
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile import checkpoint
from models.profile.data import training_rows
from models.profile.data.examples import TrunkOutput, build_corpus, run_trunk
from models.profile.data.prepared import SplitName, refuse_trained_part, split_by_time
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary, concatenated_ranges
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

TOP = 10
# A metric's gain at each of the first TOP ranks, with one relevant item.
POSITION_GAINS = {"recall_at_10": np.ones(TOP), "ndcg_at_10": 1 / np.log2(np.arange(2, TOP + 2))}
MAX_EVENTS_PER_CHUNK = 500  # bounds the memory


class TargetRanks(NamedTuple):
    """Ranks of the true items of M events."""

    token_M: np.ndarray  # the event's token in the corpus
    above_M: np.ndarray  # number of likelier items
    ties_M: np.ndarray  # number of other items that are as likely

    def mean_gain(self, gains: np.ndarray) -> np.ndarray:
        """(M,) mean of the gains at the ranks that breaking ties at random may give."""
        total = np.concatenate([[0.0], np.cumsum(gains)])
        first_M, last_M = self.above_M, self.above_M + self.ties_M + 1
        return (total[last_M.clip(max=TOP)] - total[first_M.clip(max=TOP)]) / (last_M - first_M)

    @classmethod
    def concatenate(cls, chunks: Iterable[TargetRanks]) -> TargetRanks:
        return cls(*map(np.concatenate, zip(*chunks, strict=True)))

    def take(self, index_M: np.ndarray) -> TargetRanks:
        return TargetRanks(*(column[index_M] for column in self))


class ColdStartRanks(NamedTuple):
    """Ranks of users' first events with a cold item, and of all events with a named item."""

    cold_among_all: TargetRanks
    cold_among_cold: TargetRanks
    named_among_all: TargetRanks


def cold_start_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    file: Path,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Recall@10 and NDCG@10 of cold items, for the model checkpoint `folder` and catalogue `file`.

    The recipe splits the rows by time. Raises InputError, also for a model that was trained on
    windows of the split.
    """
    model, items, categories, card = checkpoint.load(folder)
    catalogue = Catalogue.read(file)
    streams = training_rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    split = split_by_time(recipe, streams.end_ms_W)
    refuse_trained_part(folder, card, split, split_name)
    windows = getattr(split, split_name)
    items_with_vectors = set(catalogue.items_with_vectors()) - set(items)
    new_items = _items_without_training_events(streams, split.train, windows)
    cold = [item for item in new_items if item in items_with_vectors]
    if not cold:
        raise InputError(
            f"catalogue {file}: has no vectors of items that are new in the {split_name} split"
        )
    rows_by_method = {
        "vectors": item_side_info.rows_from_neighbours(model, items, catalogue, cold),
        "category": _category_mean_rows(model, items, streams, cold),
        "hash_bucket": hash_bucket_rows(model, items, cold),
    }
    corpus = build_corpus(
        streams,
        Vocabulary([*items, *cold], model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
    )
    item_N = corpus.item_row_I[streams.item_N]
    cold_token = (item_N > len(items)) & (item_N <= len(items) + len(cold))
    windows = windows[np.add.reduceat(cold_token, streams.first_W)[windows] > 0]
    ranks_by_method = {}
    for method, added in rows_by_method.items():
        expanded, done = add_items(model, added).eval(), 0
        chunks: list[ColdStartRanks] = []
        for output in run_trunk(expanded, corpus, windows, recipe):
            chunks += _rank(expanded, output, len(items))
            done += len(output.windows)
            on_progress(f"rank by {method}", done, len(windows))
        ranks_by_method[method] = ColdStartRanks(
            *map(TargetRanks.concatenate, zip(*chunks, strict=True))
        )
    metrics = {scope: _metrics(streams, ranks_by_method, scope) for scope in ColdStartRanks._fields}
    return {
        "version": card.version,
        "part": split_name,
        "rows": streams.fingerprint(),
        "cold_items": len(cold),
        **metrics,
    }


def _items_without_training_events(
    streams: Streams, train_W: np.ndarray, windows: np.ndarray
) -> list[str]:
    """Items of `windows` that have no event in training."""
    in_train, in_windows = (
        np.bincount(
            streams.item_N[concatenated_ranges(streams.first_W[part], streams.last_W[part])],
            minlength=len(streams.items),
        )
        > 0
        for part in (train_W, windows)
    )
    new_codes = np.flatnonzero(in_windows & ~in_train)
    return [streams.items[code] for code in new_codes if streams.items[code]]


def _category_mean_rows(
    model: BehaviourTransformer, items: list[str], streams: Streams, cold: list[str]
) -> NewItems:
    """The mean named item of each cold item's category.

    Uses the mean of all named items for a category without any. An item's category is that of its
    last event.
    """
    category_of_item = np.zeros(len(streams.items), np.int64)
    category_of_item[streams.item_N] = streams.category_N
    code = {name: code for code, name in enumerate(streams.items)}
    named = [index for index, name in enumerate(items) if name in code]
    start = model.shape.layout.item + 1
    row_JD, bias_J = model.table.detach()[start + torch.tensor(named)], model.item_bias.detach()
    columns_JX = torch.cat([row_JD, row_JD.norm(dim=1, keepdim=True), bias_J[named, None]], 1)
    category_J = torch.from_numpy(category_of_item[[code[items[index]] for index in named]])
    sums = columns_JX.new_zeros(len(streams.categories), columns_JX.shape[1])
    sums.index_add_(0, category_J, columns_JX)
    counts = torch.bincount(category_J, minlength=len(sums))[:, None]
    means = torch.where(counts > 0, sums / counts.clamp(min=1), columns_JX.mean(0))
    mean_NX = means[torch.from_numpy(category_of_item[[code[name] for name in cold]])]
    return NewItems(
        *item_side_info.rescale_means(mean_NX[:, :-2], mean_NX[:, -2], mean_NX[:, -1], bias_J.min())
    )


def _rank(
    model: BehaviourTransformer, output: TrunkOutput, named_items: int
) -> Iterator[ColdStartRanks]:
    """Ranks the windows' own events in chunks. Items after the first `named_items` are cold."""
    batch, sequences = output.batch, output.sequences
    target_M = np.flatnonzero(sequences.scored_N & (batch.item_N > 0))
    target_M = target_M[batch.item_N[target_M] <= model.shape.items]
    item_count_BJ = torch.from_numpy(
        batch.item_repeat_counts.toarray()[:, 1 : 1 + model.shape.items]
    )
    for chunk_M in np.array_split(target_M, 1 + len(target_M) // MAX_EVENTS_PER_CHUNK):
        h_MD = output.h_PD[torch.from_numpy(batch.flat_position_N[chunk_M] - 1)]
        item_count_MJ = item_count_BJ[torch.from_numpy(sequences.row_N[chunk_M])]
        logits_MJ = torch.addcmul(
            model.item_logits(h_MD), model.repeat_weights(h_MD)[1], item_count_MJ
        )
        item_M1 = torch.from_numpy(batch.item_N[chunk_M] - 1).long()[:, None]
        true_M1 = logits_MJ.gather(1, item_M1)
        among_all, among_cold = (
            TargetRanks(
                sequences.source_N[chunk_M],
                (logits > true_M1).sum(1).numpy(),
                (logits == true_M1).sum(1).numpy() - 1,
            )
            for logits in (logits_MJ, logits_MJ[:, named_items:])
        )
        named_M1, first_M1 = item_M1 < named_items, item_count_MJ.gather(1, item_M1) == 0
        cold_M, named_M = (mask.squeeze(1).numpy() for mask in (first_M1 & ~named_M1, named_M1))
        yield ColdStartRanks(
            among_all.take(cold_M), among_cold.take(cold_M), among_all.take(named_M)
        )


def _metrics(
    streams: Streams, ranks_by_method: dict[str, ColdStartRanks], scope: str
) -> dict[str, Any]:
    ranks = {method: getattr(of_method, scope) for method, of_method in ranks_by_method.items()}
    token_M = ranks["vectors"].token_M
    if not len(token_M):
        return {"events": 0}
    user_M = streams.user_W[np.searchsorted(streams.last_W, token_M, side="right")]
    bootstrap = UserBootstrap(user_M)
    by_vectors = {name: ranks["vectors"].mean_gain(gains) for name, gains in POSITION_GAINS.items()}
    metrics: dict[str, Any] = {"events": len(token_M)}
    for method, target_ranks in ranks.items():
        values = {name: target_ranks.mean_gain(gains) for name, gains in POSITION_GAINS.items()}
        metrics[method] = {name: _round(value_M.mean()) for name, value_M in values.items()}
        if method != "vectors":
            metrics[f"vectors_over_{method}"] = {
                name: [_round(end) for end in bootstrap.mean(by_vectors[name], value_M)]
                for name, value_M in values.items()
            }
    return metrics


def _round(value: float) -> float:
    return round(float(value), 4)
