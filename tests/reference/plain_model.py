"""The user model without optimisations, as a reference.

Shapes: B rows of a batch, S scored events, C categories, K types; 2B are the rows before and after
the window.
"""

from functools import partial

import numpy as np
import torch

from models.profile.encoding import EncodedBatch
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer, PassResult, can_surprise


def plain_forward(model: BehaviourTransformer, batch: EncodedBatch, _: object) -> PassResult:
    """All positions of a batch, padded to the longest row, go through every layer."""
    counts_B, after_B = batch.scored_counts_B, batch.after_B
    row_S = np.repeat(np.arange(len(after_B)), counts_B)
    first_B = np.minimum(np.cumsum(counts_B) - counts_B, len(row_S) - 1)
    before_B = np.where(counts_B > 0, batch.scored_S[first_B], after_B)
    h_PD = model.trunk(torch.from_numpy(batch.embedding_rows_P7), batch.groups)
    repeat_counts_SC = torch.from_numpy(batch.repeat_counts_BC)[row_S]
    h_SD, index_S = h_PD[batch.scored_S], np.arange(len(row_S))
    category_SC = model.category_logits(h_SD, repeat_counts_SC).log_softmax(1)
    type_SK = model.type_logits(h_SD).log_softmax(1)
    surprise_S = -(category_SC[index_S, batch.category_S] + type_SK[index_S, batch.type_S])
    known_S = can_surprise(model, batch.category_S)
    return PassResult(
        model.embeddings(h_PD[np.concatenate([before_B, after_B])]),
        h_PD[after_B],
        surprise_S[known_S],
        row_S[known_S],
    )


PlainProfileModel = partial(ProfileModel, run=plain_forward)
