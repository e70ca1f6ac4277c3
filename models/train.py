"""Trains the Transformer on a backfill's rows and writes a checkpoint. One CPU thread, fixed seeds.

The loss sums, each weighted by the recipe: next category and next type (cross-entropy), next item
(sampled softmax with the logQ correction: Bengio and Senecal 2008, IEEE TNN 19(4); Yi et al. 2019,
RecSys, doi:10.1145/3298689.3346996), churn (logistic) and spend if there is any (log-normal; Wang
et al. 2019, arXiv:1912.07753). AdamW (arXiv:1711.05101) with a linear warm-up and a cosine decay
(arXiv:1608.03983). The same rows, recipe, versions and processor give the same weights.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveprofile.errors import InputError
from models import Progress, checkpoint, evaluate, rows
from models.encode import Vocabulary
from models.recipes import Recipe
from models.segments import Corpus, Segments, build, cut, enrich, examples
from models.transformer import BehaviourTransformer, Shape

CURVES = "curves.csv"


class Split(NamedTuple):
    """Windows of each part, and the time in ms at which it ends."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_until_ms: int
    validation_until_ms: int
    test_until_ms: int


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


def train(
    recipe: Recipe, rows_path: Path, out: Path, on_progress: Progress = lambda *_: None
) -> dict:
    """Writes a checkpoint to the folder `out` and returns its card as a dict.

    Raises InputError for rows the recipe can't use.
    """
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    started_s = time.monotonic()
    streams = rows.read(rows_path, lambda done, total: on_progress("read", done, total))
    parts = split(recipe, streams.end_ms_W)
    trained_on = streams.last_W[parts.train] - streams.first_W[parts.train]
    tokens = np.repeat(streams.first_W[parts.train], trained_on) + np.concatenate(
        [np.arange(count) for count in trained_on]
    )
    items, item_counts = _most_frequent(streams.items, streams.item_N[tokens], recipe.item_names)
    categories, category_counts = _most_frequent(
        streams.categories, streams.category_N[tokens], recipe.category_names
    )
    if not items or not categories:
        raise InputError(f"training rows {rows_path}: no event has an item and a category")
    shape = Shape(
        len(items), recipe.item_buckets, len(categories), recipe.category_buckets,
        recipe.dim, recipe.layers, recipe.heads, recipe.max_len,
    )  # fmt: skip
    corpus = build(
        streams,
        Vocabulary(items, recipe.item_buckets),
        Vocabulary(categories, recipe.category_buckets),
        recipe.horizon_days,
    )
    if not corpus.known_labels(parts.train, parts.train_until_ms).any():
        raise InputError(
            f"training rows {rows_path}: shorter than the recipe's horizon of"
            f" {recipe.horizon_days} days; take a recipe with a shorter one"
        )
    model = BehaviourTransformer(shape)
    _start_from_frequencies(model, item_counts, category_counts)
    _start_from_means(model, corpus, parts)
    trainer = _Trainer(recipe, model, corpus, parts, item_counts, random)
    curves = trainer.run(on_progress)
    checkpoint.round_weights(model)
    on_progress("evaluate", 0, 1)
    measured, surprise = evaluate.evaluate(model, corpus, parts, recipe)
    on_progress("evaluate", 1, 1)

    card = checkpoint.save(
        out,
        model,
        items,
        categories,
        name=recipe.name,
        version=f"{recipe.name}-{recipe.revision}",
        revision=recipe.revision,
        horizon_days=recipe.horizon_days,
        recipe=dataclasses.asdict(recipe),
        data={
            "licence": recipe.data_licence,
            "fingerprint": streams.fingerprint(),
            "users": streams.users,
            "windows": len(streams.end_ms_W),
            "events": len(streams.time_ms_N),
            "unusable_events": streams.unusable_events,
            "train_until": _iso(parts.train_until_ms),
            "validation_until": _iso(parts.validation_until_ms),
            "test_until": _iso(parts.test_until_ms),
            "windows_by_part": {
                name: len(getattr(parts, name)) for name in ("train", "validation", "test")
            },
        },
        metrics={
            "epochs": len(curves),
            "best_epoch": trainer.best_epoch,
            "seconds": round(time.monotonic() - started_s, 1),
            **measured,
        },
        surprise_quantiles=surprise,
        libraries={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    )
    _write_curves(out / CURVES, curves)
    return card.model_dump()


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        model: BehaviourTransformer,
        corpus: Corpus,
        parts: Split,
        item_counts: np.ndarray,
        random: np.random.Generator,
    ):
        self.recipe, self.model, self.corpus, self.parts = recipe, model, corpus, parts
        self.random = random
        self.item_share_I = item_counts / item_counts.sum()
        self.log_q_I = torch.from_numpy(np.log(self.item_share_I)).float()
        self.best_epoch = 0
        per_epoch = min(recipe.windows_per_epoch, len(parts.train))
        self.steps_per_epoch = math.ceil(per_epoch / recipe.batch_rows)
        self.steps = self.steps_per_epoch * recipe.epochs
        matrices = [p for p in model.parameters() if p.ndim == 2 and p is not model.table]
        others = [p for p in model.parameters() if p.ndim != 2 or p is model.table]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )

    def run(self, on_progress: Progress) -> list[dict[str, float]]:
        """Trains until no better for `patience` epochs; leaves the best weights in place."""
        best_loss, best_weights, curves, step = math.inf, {}, [], 0
        validation = self._sample(self.parts.validation, self.recipe.validation_windows)
        for epoch in range(1, self.recipe.epochs + 1):
            windows = self._sample(self.parts.train, self.recipe.windows_per_epoch)
            totals: dict[str, float] = {}
            for part in np.array_split(windows, self.steps_per_epoch):
                for name, value in self._step(part, step).items():
                    totals[name] = totals.get(name, 0.0) + value / self.steps_per_epoch
                step += 1
                on_progress("train", step, self.steps)
            held_out = self._validate(validation)
            curves.append({"epoch": epoch, **totals, **held_out})
            if held_out["validation_loss"] < best_loss:
                best_loss, self.best_epoch = held_out["validation_loss"], epoch
                best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}
            elif epoch - self.best_epoch >= self.recipe.patience:
                break
        self.model.load_state_dict(best_weights)
        self.model.eval().requires_grad_(False)
        return curves

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return self.random.permutation(windows)[:size]

    def _step(self, windows: np.ndarray, step: int) -> dict[str, float]:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, self.steps, recipe.warm_up_share)
        short_B = self.random.random(len(windows)) < recipe.short_history_share
        history_B = np.where(
            short_B,
            self.random.integers(0, recipe.history_windows, len(windows)),
            recipe.history_windows,
        )
        segments = cut(self.corpus, windows, history_B, recipe.max_len)
        segments = enrich(segments, recipe.enriched_share, recipe.max_len, self.random)
        negatives = self.random.choice(
            len(self.item_share_I), recipe.item_negatives, p=self.item_share_I
        )
        terms = self._losses(segments, self.random, torch.from_numpy(negatives))
        loss = weighted(recipe, terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        return {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}

    def _validate(self, windows: np.ndarray) -> dict[str, float]:
        """Only next-event losses choose the epoch: the others' horizon reaches into the test."""
        sums: dict[str, float] = {}
        with torch.no_grad():
            for part in np.array_split(windows, math.ceil(len(windows) / 500)):
                history_B = np.full(len(part), self.recipe.history_windows)
                segments = cut(self.corpus, part, history_B, self.recipe.max_len)
                terms = self._losses(segments, None, None)
                for name in ("category", "type", "item"):
                    key = f"validation_{name}"
                    sums[key] = sums.get(key, 0.0) + terms[name].item() * len(part) / len(windows)
        recipe = self.recipe
        sums["validation_loss"] = (
            recipe.weight_category * sums["validation_category"]
            + recipe.weight_type * sums["validation_type"]
            + recipe.weight_item * sums["validation_item"]
        )
        return sums

    def _losses(
        self,
        segments: Segments,
        random: np.random.Generator | None,
        negatives: Tensor | None,
    ) -> dict[str, Tensor]:
        model, corpus = self.model, self.corpus
        batch = examples(corpus, segments, model.shape.layout, self.recipe.forgotten_share, random)
        groups = [(0, segments.rows, batch.length)]
        h_PD = model.trunk(torch.from_numpy(batch.features_P7), groups)
        place_N = torch.from_numpy(batch.place_N)
        h_ND = h_PD[place_N - 1]
        named_N = np.flatnonzero((batch.item_N > 0) & (batch.item_N <= model.shape.items))
        item_N = torch.from_numpy(batch.item_N[named_N].astype(np.int64) - 1)
        ends_N = np.flatnonzero(segments.window_N >= 0)
        windows = segments.window_N[ends_N]
        known = corpus.known_labels(windows, self.parts.train_until_ms)
        ends_N, windows = ends_N[known], windows[known]
        churn, log_mean, log_std = model.values(h_PD[place_N[ends_N]])
        bought = torch.from_numpy(corpus.purchases_W[windows] > 0)
        spend = torch.from_numpy(corpus.spend_W[windows]).float()
        paid = spend > 0
        return {
            "category": F.cross_entropy(
                model.category_logits(h_ND), torch.from_numpy(batch.category_N.astype(np.int64))
            ),
            "type": F.cross_entropy(
                model.type_logits(h_ND), torch.from_numpy(batch.type_N.astype(np.int64))
            ),
            "item": item_loss(model, h_ND[named_N], item_N, negatives, self.log_q_I),
            "churn": _mean(
                F.binary_cross_entropy_with_logits(churn, (~bought).float(), reduction="none")
            ),
            "spend": _mean(log_normal_loss(log_mean[paid], log_std[paid], spend[paid])),
        }


def schedule(step: int, steps: int, warm_up_share: float) -> float:
    """Share of the learning rate: up in a line, down along a cosine to a twentieth."""
    warm_up = max(1, round(warm_up_share * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def weighted(recipe: Recipe, terms: dict[str, Tensor]) -> Tensor:
    return sum(getattr(recipe, f"weight_{name}") * term for name, term in terms.items())


def item_loss(
    model: BehaviourTransformer,
    h_ND: Tensor,
    item_N: Tensor,
    negatives_K: Tensor | None,
    log_q_I: Tensor,
) -> Tensor:
    """Cross-entropy of the next item (0-based): over all items, or against drawn negatives."""
    if negatives_K is None:
        return _mean(F.cross_entropy(model.item_logits(h_ND), item_N, reduction="none"))
    # Each logit is lowered by the log of how often its item is drawn, which makes the sample's
    # partition function an estimate of the full one.
    correction_I = log_q_I + math.log(len(negatives_K))
    drawn_NK = model.item_logits(h_ND, negatives_K) - correction_I[negatives_K]
    drawn_NK = drawn_NK.masked_fill(negatives_K[None, :] == item_N[:, None], float("-inf"))
    rows_ND = model.table[model.shape.layout.item + 1 + item_N]
    true_N = (model.item_query(h_ND) * rows_ND).sum(1) + model.item_bias[item_N]
    true_N = true_N - correction_I[item_N]
    return _mean(torch.logsumexp(torch.cat([true_N[:, None], drawn_NK], 1), 1) - true_N)


def log_normal_loss(log_mean_N: Tensor, log_std_N: Tensor, value_N: Tensor) -> Tensor:
    """Negative log-likelihood of the values' logarithms, (N,), without constants."""
    return log_std_N.log() + 0.5 * ((value_N.log() - log_mean_N) / log_std_N).square()


def _mean(loss_N: Tensor) -> Tensor:
    """0 for a batch without targets, where torch's mean is nan."""
    return loss_N.sum() / max(1, loss_N.numel())


def _most_frequent(names: list[str], codes: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
    """The names seen most, and how often; ties by name. "" never."""
    counts = np.bincount(codes, minlength=len(names))
    counts[[code for code, name in enumerate(names) if not name]] = 0
    chosen = [code for code in np.argsort(-counts, kind="stable")[:limit] if counts[code] > 0]
    return [names[code] for code in chosen], counts[chosen]


def _start_from_frequencies(
    model: BehaviourTransformer, item_counts: np.ndarray, category_counts: np.ndarray
) -> None:
    """Biases begin at the log frequencies: training starts from the popularity model."""
    named = slice(1, 1 + len(category_counts))
    with torch.no_grad():
        model.item_bias.copy_(torch.from_numpy(np.log(item_counts / item_counts.sum())))
        model.category_bias.fill_(math.log(0.5 / category_counts.sum()))
        share = category_counts / category_counts.sum()
        model.category_bias[named] = torch.from_numpy(np.log(share)).float()


def _start_from_means(model: BehaviourTransformer, corpus: Corpus, parts: Split) -> None:
    """Churn and spend begin at what holds on average."""
    windows = parts.train[corpus.known_labels(parts.train, parts.train_until_ms)]
    left = (corpus.purchases_W[windows] == 0).mean().clip(0.001, 0.999)
    spend_W = corpus.spend_W[windows]
    with torch.no_grad():
        model.value_head.bias[0] = math.log(left / (1 - left))
        if (spend_W > 0).any():
            model.value_head.bias[1] = float(np.log(spend_W[spend_W > 0]).mean())


def _write_curves(file: Path, curves: list[dict[str, float]]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(curves[0]))
        writer.writeheader()
        for row in curves:
            writer.writerow({k: v if k == "epoch" else f"{v:.5f}" for k, v in row.items()})


def _day_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
