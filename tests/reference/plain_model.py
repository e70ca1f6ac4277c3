"""The user model without optimisations, as a reference.

Shapes: B rows of a batch, P positions, S scored events, D model width, C categories, I items, K
types or top entries, M stored repeat counts of items; 2B are the rows before and after the window.
"""

from __future__ import annotations

import numpy as np
import torch

from models.profile.encoding import EncodedBatch
from models.profile.forward import TOP_K, InferenceBatchResult
from models.profile.inference import ProfileModel
from models.profile.network import expected_spend


class PlainProfileModel(ProfileModel):
    """The model without optimisations, as the reference.

    All positions of a batch, padded to the longest row, go through every layer, and torch.topk
    ranks all items, also where the ranker replaces the result.
    """

    def _forward(
        self,
        batch: EncodedBatch,
        user_features_2BX: np.ndarray,
        fused_BD: torch.Tensor | None,
        by_memory: bool,
    ) -> InferenceBatchResult:
        model, rows = self._model, len(batch.before_B)
        row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
        h_PD = model.trunk(torch.from_numpy(batch.embedding_rows_P7), batch.groups)

        repeat_counts_BC, h_SD = (
            torch.from_numpy(batch.repeat_counts_before_BC),
            h_PD[batch.scored_S],
        )
        category_SC = model.category_logits(h_SD, repeat_counts_BC[row_S]).log_softmax(1)
        type_SK = model.type_logits(h_SD).log_softmax(1)
        index_S = np.arange(len(row_S))
        surprise_S = -(category_SC[index_S, batch.category_S] + type_SK[index_S, batch.type_S])

        h_2BD = h_PD[np.concatenate([batch.before_B, batch.after_B])]
        repeat_counts_2BC = torch.cat(
            [repeat_counts_BC, torch.from_numpy(batch.repeat_counts_after_BC)]
        )
        fused_2BD = h_2BD.clone()
        if fused_BD is not None:
            fused_2BD[rows:] += fused_BD
        log_p_2BC = model.category_logits(fused_2BD, repeat_counts_2BC).log_softmax(1)
        log_p_BK, interest_BK = log_p_2BC[rows:, 1 : 1 + model.shape.categories].topk(
            min(TOP_K, model.shape.categories)
        )
        churn_2B, log_mean_2B, log_std_2B = model.values(h_2BD, torch.from_numpy(user_features_2BX))
        churn_2B = churn_2B.sigmoid()
        spend_2B = expected_spend(churn_2B, log_mean_2B, log_std_2B)

        h_BD, item_counts = fused_2BD[rows:], batch.item_repeat_counts
        logits_BI = model.item_logits(h_BD)
        repeat_logits_M = model.repeat_weights(h_BD)[1].squeeze(1)[
            item_counts.row_M
        ] * torch.from_numpy(item_counts.value_M)
        logits_BI[item_counts.row_M, item_counts.code_M - 1] += repeat_logits_M
        item_BK = logits_BI.topk(min(TOP_K, model.shape.items)).indices
        columns = (model.embeddings(h_2BD), churn_2B[:, None], spend_2B[:, None])
        return InferenceBatchResult(
            torch.cat(columns, 1),
            interest_BK.int(),
            log_p_BK.exp(),
            item_BK.int(),
            h_2BD[rows:],
            h_BD,
            surprise_S,
            row_S,
        )
