"""Can who has the model tell which users it was trained on? A membership-inference test.

The attack (Yeom et al. 2018, arXiv:1709.01604) takes a user with a low loss for one of the
training. It is measured over users: the AUC is the probability that a user of the training has a
lower loss than a user who was never seen, 0.5 if the model reveals nothing. Carlini et al. 2022
(arXiv:2112.03570) also ask for the share of the training's users that are found while 1 % of the
others are taken for them. Both kinds of users must be alike otherwise, as with a random choice:
users who differ by their age, for example, differ in their loss, too.

All windows are those of the time of the training. Shape suffixes: M events, W windows, U users.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from lab.user_model.next_events import NOT_RANKED, score_next_events
from liveprofile.errors import InputError
from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from models import trained_users
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.data.prepared import trained_until_ms
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.evaluation.next_basket import KINDS, basket_scores, next_baskets, subset
from models.profile.evaluation.served import served_rankings
from models.profile.inference import ProfileModel
from models.profile.recipes import Recipe
from models.trained_users import USER_BYTES, user_key

MOST_WINDOWS = 50_000  # random ones: bounds memory and time
LEAST_USERS = 10  # of each kind
FALSE_SHARE = 0.01


def membership_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    unseen: Collection[str] = (),
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """How well each loss of the model in `folder` tells the users of its training from others.

    unseen: ids of users of the rows who are not in the training; none: those whom the checkpoint's
    file of trained users does not know. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    encode_texts = text_encoder.encode if TEXT in model.fusion.modalities else None
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts
    )
    is_trained_U = _trained(streams, folder, unseen)
    corpus = build_corpus(
        streams,
        Vocabulary(items, model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
    )
    windows = np.flatnonzero(streams.end_ms_W <= trained_until_ms(card))
    some = _sample(windows)
    events = score_next_events(model, corpus, some, recipe, on_progress)
    window_M = np.searchsorted(streams.last_W, events.source_M, side="right")
    user_M, ranked_M = streams.user_W[window_M], events.item_rank_M != NOT_RANKED
    losses = {
        "next_category": (user_M, events.category_nll_M),
        "next_type": (user_M, events.type_nll_M),
        "next_item": (user_M[ranked_M], np.log1p(events.item_rank_M[ranked_M])),
    }
    served = ProfileModel.load(folder, device="cpu")
    for kind in KINDS:
        targets = subset(next_baskets(streams, kind, windows), MOST_WINDOWS)
        if len(targets.window_W):
            ranking = served_rankings(
                served, streams, targets.window_W, recipe.history_windows, on_progress
            )
            missed_W = 1 - basket_scores(targets, getattr(ranking, kind)).ndcg_at_10
            losses[f"stored_{kind}"] = (targets.user_W, missed_W)
    return {
        "version": card.version,
        "rows": streams.fingerprint(),
        "trained_users": int(is_trained_U.sum()),
        "unseen_users": int((~is_trained_U).sum()),
        "windows": len(some),
        "losses": {
            name: measure(user, loss, is_trained_U) for name, (user, loss) in losses.items()
        },
    }


def measure(user_M: np.ndarray, loss_M: np.ndarray, is_trained_U: np.ndarray) -> dict[str, Any]:
    """Compares the mean losses of users; `auc` is `[value, low, high]` of the 95 % interval.

    Users without a loss do not count. None for the figures if one kind has no user.
    """
    users = len(is_trained_U)
    count_U = np.bincount(user_M, minlength=users)
    counted_U = count_U > 0
    loss_U = np.bincount(user_M, loss_M, minlength=users)[counted_U] / count_U[counted_U]
    trained_U = is_trained_U[counted_U]
    report = {"trained_users": int(trained_U.sum()), "unseen_users": int((~trained_U).sum())}
    if trained_U.all() or not trained_U.any():
        return {**report, "auc": None, "found_at_1_percent": None, "mean_loss": None}
    # Equal scores have an area of 0.5 on every resample.
    equal_U = np.zeros(len(loss_U))
    difference = UserBootstrap(np.arange(len(loss_U))).auc(-loss_U, equal_U, trained_U)
    threshold = np.quantile(loss_U[~trained_U], FALSE_SHARE)
    return {
        **report,
        "auc": [round(0.5 + value, 4) for value in difference],
        "found_at_1_percent": round(float((loss_U[trained_U] < threshold).mean()), 4),
        "mean_loss": {
            "trained": round(float(loss_U[trained_U].mean()), 4),
            "unseen": round(float(loss_U[~trained_U].mean()), 4),
        },
    }


def _trained(streams: Streams, folder: Path, unseen: Collection[str]) -> np.ndarray:
    """(U,) bool: whether each user is in the training. Raises InputError."""
    keys = [key.ljust(USER_BYTES, b"\0") for key in streams.user_key_U.tolist()]
    if unseen:
        unseen_keys = frozenset(map(user_key, unseen))
        is_trained_U = np.array([key not in unseen_keys for key in keys])
    else:
        trained = trained_users.read(folder)
        if trained is None:
            raise InputError(
                f"model checkpoint {folder}: {trained_users.FILE} is missing: name the users who"
                " are not in its training with --unseen"
            )
        is_trained_U = np.array([trained.has_key(key) for key in keys])
    counts = {"in": int(is_trained_U.sum()), "not in": int((~is_trained_U).sum())}
    for kind, count in counts.items():
        if count < LEAST_USERS:
            raise InputError(
                f"{count} users of the rows are {kind} the training of {folder}: the test needs"
                f" {LEAST_USERS}; train a model with --without FILE to have users it never saw"
            )
    return is_trained_U


def _sample(windows: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.sort(random.permutation(windows)[:MOST_WINDOWS])
