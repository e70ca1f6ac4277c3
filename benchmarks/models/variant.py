"""A way to serve a checkpoint, to compare with others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.models import compression
from liveprofile.config import load
from liveprofile.errors import InputError
from models.profile import checkpoint
from models.profile.encoding import Batch
from models.profile.inference import TOP, Pass, ProfileModel
from models.profile.network import BehaviourTransformer, expected_spend

ALL_ITEMS_ROWS = 256  # of a pass that ranks them all: the logits of more would cause page faults


class Variant(NamedTuple):
    """A way to serve a checkpoint."""

    served: ProfileModel
    network: BehaviourTransformer
    ranked_items: int
    size_bytes: int  # of its weights in a file


class Plain(ProfileModel):
    """The model as one would write it down: all positions of a batch, padded to the longest, go
    through every layer, and torch.topk ranks all items."""

    def _forward(
        self, batch: Batch, numbers_2BX: np.ndarray, fused_BD: torch.Tensor | None
    ) -> Pass:
        model, rows = self._model, len(batch.before_B)
        row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
        h_PD = model.trunk(torch.from_numpy(batch.features_P7), batch.groups)

        had_BC, h_SD = torch.from_numpy(batch.had_before_BC), h_PD[batch.scored_S]
        category_SC = model.category_logits(h_SD, had_BC[row_S]).log_softmax(1)
        type_SK = model.type_logits(h_SD).log_softmax(1)
        every_S = np.arange(len(row_S))
        surprise_S = -(category_SC[every_S, batch.category_S] + type_SK[every_S, batch.type_S])

        h_2BD = h_PD[np.concatenate([batch.before_B, batch.after_B])]
        had_2BC = torch.cat([had_BC, torch.from_numpy(batch.had_after_BC)])
        told_2BD = h_2BD.clone()
        if fused_BD is not None:
            told_2BD[rows:] += fused_BD
        log_p_2BC = model.category_logits(told_2BD, had_2BC).log_softmax(1)
        log_p_2BK, interest_2BK = log_p_2BC[:, 1 : 1 + len(self.categories)].topk(
            min(TOP, len(self.categories))
        )
        churn_2B, log_mean_2B, log_std_2B = model.values(h_2BD, torch.from_numpy(numbers_2BX))
        churn_2B = churn_2B.sigmoid()
        spend_2B = expected_spend(churn_2B, log_mean_2B, log_std_2B)

        h_BD, had = told_2BD[rows:], batch.had_items
        logits_BI = model.item_logits(h_BD)
        more_M = model.repeats(h_BD)[1].squeeze(1)[had.row_M] * torch.from_numpy(had.value_M)
        logits_BI[had.row_M, had.code_M - 1] += more_M
        item_BK = logits_BI.topk(min(TOP, len(self.items))).indices
        columns = (model.embeddings(h_2BD), log_p_2BK.exp(), churn_2B[:, None], spend_2B[:, None])
        ints_BX = torch.cat([interest_2BK[:rows], interest_2BK[rows:], item_BK], 1).int()
        return Pass(torch.cat(columns, 1), ints_BX, surprise_S, row_S)


def variants(folders: list[Path]) -> dict[str, Variant]:
    """By name, the reference first. Raises InputError for a folder that is no checkpoint."""
    found: dict[str, Variant] = {}
    for folder in folders:
        network, items, categories, card = checkpoint.load(folder)
        if f"{card.version} plain" in found:
            raise InputError(f"checkpoint {folder}: there is another {card.version}")
        settings, every = load().model, len(items)
        usual = (card.ranked_items, settings.batch_rows, settings.length_buckets)
        ways = {
            "plain": (Plain, compression.float32, every, ALL_ITEMS_ROWS, (card.shape["max_len"],)),
            "all items": (ProfileModel, compression.float32, every, ALL_ITEMS_ROWS, usual[2]),
            **{name: (ProfileModel, make, *usual) for name, make in compression.FORMS.items()},
        }
        for name, (kind, make, ranked, rows, buckets) in ways.items():
            form = make(network)
            served = kind(
                form.model,
                items,
                categories,
                {**card.model_dump(), "ranked_items": ranked},
                device=torch.device("cpu"),
                batch_rows=rows,
                length_buckets=buckets,
            )
            found[f"{card.version} {name}"] = Variant(served, form.model, ranked, form.size_bytes)
    return found
