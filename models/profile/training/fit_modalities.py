"""Fits what windows bring beside tokens (models/profile/modality_layers.py) behind the finished trunk.

What follows a window is the first event of the user's next one: the state before that event, plus
what the window brought, should foretell it better than the state alone. Modalities are tried one
after the other, each beside those kept before it. The best epoch is the one with the least loss on
half of validation's users, and the other half decides: a modality is kept if their loss is lower
than without it, and lower than with the same vectors dealt out anew among the windows. Those can
mend what the trunk says of everyone, but know nothing of a window. Both differences must lie below
0 with their whole 95 % intervals over users (models/profile/evaluation/intervals.py).

Shape suffixes: B samples of a batch; M of them with a named item; N samples of all batches; K
windows that have a vector; D as in models/profile/network.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from liveprofile.events.modalities import Modality
from liveprofile.progress import Progress
from models.profile.checkpoint import TriedModality
from models.profile.data.batched_inference import Pass, passes
from models.profile.data.examples import Corpus
from models.profile.data.training_rows import Streams
from models.profile.evaluation.intervals import Bootstrap
from models.profile.modality_layers import Beside, Fusion, Rows
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training.trainer import Items, item_logits, ndcg_at_10, schedule
from models.profile.user_features import Had

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

EPOCHS, LEAST_STEPS = 8, 1_000
LEARNING_RATE = 3e-2
MOST_WINDOWS = 50_000  # to learn from, and a fifth of them to validate on
LEAST_WINDOWS = 100  # to learn from, and in each half of validation; fewer prove nothing
DECIMALS = 4


class Batch(NamedTuple):
    """Windows with the first event of the next one."""

    window_B: np.ndarray
    user_B: np.ndarray
    state_BD: np.ndarray  # before that event, float32
    had_categories: Had
    had_items: Had
    category_B: np.ndarray  # rows of the vocabulary
    item_B: np.ndarray
    beside: Beside  # what the windows brought


class Parts(NamedTuple):
    learns: list[Batch]
    chooses: list[Batch]  # the epoch
    decides: list[Batch]


class Said(NamedTuple):
    """Of each sample."""

    loss_N: torch.Tensor
    ndcg_N: torch.Tensor  # at 10, of the category


def fit(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> list[TriedModality]:
    """Sets `model.fusion` to what helps, and says what was tried."""
    random = np.random.default_rng(recipe.seed)
    model.fusion = Fusion(model.shape.dim)
    brought, tried = corpus.streams.beside, []
    for modality in sorted(brought, key=lambda one: (-len(brought[one].row_K), one)):
        windows = _parts(corpus.streams, modality, split, random)
        if min(map(len, windows)) < LEAST_WINDOWS:
            continue
        entry, fusion = _try(model, corpus, modality, windows, recipe, random, on_progress)
        tried.append(entry)
        if entry.kept:
            model.fusion = fusion
    return tried


def measure(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, Any]:
    """What the model's modalities are worth in `windows`: for each the windows that have it, with
    all modalities and with none."""
    fusion, nothing, found = model.fusion, Fusion(model.shape.dim), {}
    for modality in fusion.modalities:
        some = _followed(corpus.streams, modality)
        some = some[np.isin(some + 1, windows)]
        if len(some):
            of_it = _batches(model, corpus, some, recipe, fusion.modalities)
            said = (_said_of_all(model, one, of_it, recipe) for one in (fusion, nothing))
            found[modality.name] = _compared(*said, _over_users(of_it))
    return found


def _followed(streams: Streams, modality: Modality) -> np.ndarray:
    """Windows with such a vector after which their user has another window."""
    window_K = streams.beside[modality].window_K
    window_K = window_K[window_K + 1 < len(streams.user_W)]
    return window_K[streams.user_W[window_K] == streams.user_W[window_K + 1]]


def _parts(
    streams: Streams, modality: Modality, split: Split, random: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Windows of each of Parts, by the part that the next one belongs to."""
    windows = random.permutation(_followed(streams, modality))
    learns = windows[np.isin(windows + 1, split.train)][:MOST_WINDOWS]
    held_out = windows[np.isin(windows + 1, split.validation)][: MOST_WINDOWS // 5]
    even = streams.user_W[held_out] % 2 == 0
    return learns, held_out[even], held_out[~even]


def _batches(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
    modalities: tuple[Modality, ...],
) -> list[Batch]:
    return [
        _batch(one, corpus.streams, modalities)
        for one in passes(model, corpus, windows + 1, recipe)
    ]


def _batch(one: Pass, streams: Streams, modalities: tuple[Modality, ...]) -> Batch:
    scored_N = np.flatnonzero(one.segments.scored_N)
    first_B = scored_N[np.diff(one.segments.row_N[scored_N], prepend=-1) > 0]
    examples, window_B = one.examples, one.windows - 1
    beside = {modality: Rows(*streams.beside[modality].of(window_B)) for modality in modalities}
    return Batch(
        window_B,
        streams.user_W[window_B],
        one.h_PD[torch.from_numpy(examples.place_N[first_B] - 1)].numpy(),
        examples.had_category_B,
        examples.had_item_B,
        examples.category_N[first_B].astype(np.int64),
        examples.item_N[first_B].astype(np.int64),
        beside,
    )


def _try(
    model: BehaviourTransformer,
    corpus: Corpus,
    modality: Modality,
    windows: tuple[np.ndarray, ...],
    recipe: Recipe,
    random: np.random.Generator,
    on_progress: Progress,
) -> tuple[TriedModality, Fusion]:
    """How it did, and the model's fusion with it."""
    modalities = (*model.fusion.modalities, modality)
    true = Parts(*(_batches(model, corpus, part, recipe, modalities) for part in windows))
    dealt = corpus.streams.beside[modality].dealt_anew(random)
    control = Parts(
        *(
            [
                batch._replace(beside={**batch.beside, modality: Rows(*dealt.of(batch.window_B))})
                for batch in part
            ]
            for part in true
        )
    )

    def fitted(parts: Parts, stage: str) -> tuple[Fusion, Said]:
        fusion = _fit(model, modality, parts, recipe, lambda done, of: on_progress(stage, done, of))
        return fusion, _said_of_all(model, fusion, parts.decides, recipe)

    fusion, with_it = fitted(true, f"fuse {modality.name}")
    without = _said_of_all(model, model.fusion, true.decides, recipe)
    users = _over_users(true.decides)
    metrics = {"train_windows": len(windows[0]), **_compared(with_it, without, users)}
    kept = metrics["loss_difference_without"][2] < 0
    if kept:
        _, with_control = fitted(control, f"fuse {modality.name}, dealt anew")
        metrics |= _compared(with_it, with_control, users, "dealt_anew")
        kept = metrics["loss_difference_dealt_anew"][2] < 0
    return TriedModality(**modality._asdict(), kept=kept, metrics=metrics), fusion


def _fit(
    model: BehaviourTransformer,
    modality: Modality,
    parts: Parts,
    recipe: Recipe,
    on_progress: Callable[[int, int], None],
) -> Fusion:
    """The model's fusion with one modality more. Its weights are those of the best epoch, zeros if
    no epoch is better than they."""
    fusion = Fusion(model.shape.dim, [*model.fusion.modalities, modality])
    fusion.load_state_dict(model.fusion.state_dict(), strict=False)
    weight = fusion.requires_grad_(False).weights[-1].requires_grad_(True)
    optimizer = torch.optim.AdamW([weight], lr=LEARNING_RATE, weight_decay=recipe.weight_decay)
    per_epoch = len(parts.learns)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
    random, step = np.random.default_rng(recipe.seed), 0
    best_loss, best = math.inf, weight.detach().clone()
    for epoch in range(epochs + 1):
        held_out = _said_of_all(model, fusion, parts.chooses, recipe).loss_N.mean().item()
        if held_out < best_loss:
            best_loss, best = held_out, weight.detach().clone()
        on_progress(epoch, epochs)
        if epoch == epochs:
            break
        for index in random.permutation(per_epoch):
            rate = LEARNING_RATE * schedule(step, epochs * per_epoch, recipe.warm_up_share)
            optimizer.param_groups[0]["lr"] = rate
            loss = _said(model, fusion, parts.learns[index], recipe).loss_N.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([weight], recipe.clip_norm)
            optimizer.step()
            step += 1
    with torch.no_grad():
        weight.copy_(best)
    return fusion.requires_grad_(False)


def _over_users(batches: list[Batch]) -> Bootstrap:
    return Bootstrap(np.concatenate([batch.user_B for batch in batches]))


def _compared(
    one: Said, other: Said, over_users: Bootstrap, name: str = "without"
) -> dict[str, Any]:
    """`difference`: of one minus the other, and its interval."""
    found: dict[str, Any] = {"windows": len(one.loss_N)}
    for what, ours, theirs in (
        ("loss", one.loss_N, other.loss_N),
        ("category_ndcg_at_10", one.ndcg_N, other.ndcg_N),
    ):
        found[what] = round(ours.mean().item(), DECIMALS)
        found[f"{what}_{name}"] = round(theirs.mean().item(), DECIMALS)
        interval = over_users.mean(ours.numpy(), theirs.numpy())
        found[f"{what}_difference_{name}"] = [round(value, DECIMALS) for value in interval]
    return found


def _said_of_all(
    model: BehaviourTransformer, fusion: Fusion, batches: list[Batch], recipe: Recipe
) -> Said:
    with torch.no_grad():
        said = [_said(model, fusion, batch, recipe) for batch in batches]
    return Said(*map(torch.cat, zip(*said, strict=True)))


def _said(model: BehaviourTransformer, fusion: Fusion, batch: Batch, recipe: Recipe) -> Said:
    """The terms of the trainer's loss that read the state after a window: category and item."""
    rows, shape = len(batch.state_BD), model.shape
    h_BD = torch.from_numpy(batch.state_BD) + fusion(batch.beside, rows)
    had_BC = torch.from_numpy(batch.had_categories.dense(rows, shape.category_rows))
    category_BC = model.category_logits(h_BD, had_BC)
    category_B = torch.from_numpy(batch.category_B)
    loss_B = recipe.weight_category * F.cross_entropy(category_BC, category_B, reduction="none")

    named_M = torch.from_numpy(np.flatnonzero((batch.item_B > 0) & (batch.item_B <= shape.items)))
    item_M = torch.from_numpy(batch.item_B)[named_M] - 1
    had_BI = torch.from_numpy(batch.had_items.dense(rows, 1 + shape.items)[:, 1:])
    items = Items(item_M, had_BI, named_M, None, torch.empty(0))
    item_MI = item_logits(model, h_BD[named_M], items)
    item_loss_M = F.cross_entropy(item_MI, item_M, reduction="none")
    loss_B = loss_B.index_add(0, named_M, recipe.weight_item * item_loss_M)
    return Said(loss_B, ndcg_at_10(category_BC.detach(), category_B))
