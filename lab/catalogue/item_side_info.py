"""Adds cold-start items to a model from side information: vectors of texts, images or voices.

The embedding row of a new item is the similarity-weighted mean of the rows of the most similar
known items (Gantner et al. 2010, Learning Attribute-to-Feature Mappings for Cold-Start
Recommendations, ICDM, doi:10.1109/ICDM.2010.129). The other weights of the model do not change.

Shape suffixes
    N new items   I items that the model names and that have catalogue vectors
    K nearest neighbours of a new item among the I   W width of the vectors   D model width
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.catalogue.catalogue import Catalogue
from lab.catalogue.new_items import NewItems, add_items
from liveprofile.errors import InputError
from models.profile import checkpoint
from models.profile.model_card import ModelCard
from models.profile.network import BehaviourTransformer

# Chosen on the validation split (docs/model.md).
NEIGHBOURS = 50
TEMPERATURE = 0.1  # of the softmax over cosine similarities, -1..1
NEIGHBOUR_BIAS_WEIGHT = 0.5  # 1: the neighbours' mean bias; 0: the bias of the rarest item
CHUNK_ITEMS = 1024


def rows_from_neighbours(
    model: BehaviourTransformer, items: list[str], catalogue: Catalogue, new: list[str]
) -> NewItems:
    """Describes new items, all of which must have catalogue vectors, by their neighbours.

    An item's usual category is that of its nearest neighbour. Raises InputError if the
    catalogue has vectors of none of the model's items.
    """
    vectors_IW = torch.from_numpy(catalogue.vectors(items))
    item_I = vectors_IW.any(1).nonzero().squeeze(1)
    if not len(item_I):
        raise InputError("the catalogue has vectors of none of the items that the model names")
    vectors_IW, bias = vectors_IW[item_I], model.item_bias.detach()
    row_ID, bias_I = model.table.detach()[model.shape.layout.item + 1 + item_I], bias[item_I]
    usual_I = model.ranker.item_category[item_I]
    chunks, categories = [], []
    for new_NW in torch.from_numpy(catalogue.vectors(new)).split(CHUNK_ITEMS):
        # Vectors are unit vectors, so this is the mean cosine over the vectors of the new item.
        similarity_NI = new_NW @ vectors_IW.T / new_NW.square().sum(1, keepdim=True)
        similarity_NK, neighbour_NK = similarity_NI.topk(min(NEIGHBOURS, len(item_I)))
        weight_NK = (similarity_NK / TEMPERATURE).softmax(1)
        row_NKD, bias_NK = row_ID[neighbour_NK], bias_I[neighbour_NK]
        chunks.append(
            rescale_means(
                torch.einsum("nk,nkd->nd", weight_NK, row_NKD),
                (weight_NK * row_NKD.norm(dim=2)).sum(1),
                (weight_NK * bias_NK).sum(1),
                bias.min(),
            )
        )
        categories.append(usual_I[neighbour_NK[:, 0]])
    rows_ND, bias_N = map(torch.cat, zip(*chunks, strict=True))
    return NewItems(rows_ND, bias_N, torch.cat(categories))


def rescale_means(
    row_ND: Tensor, length_N: Tensor, bias_N: Tensor, rarest_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows and biases of new items from their neighbours' mean rows, lengths and biases."""
    # The mean of rows is shorter than the rows, and a short row has little effect on the state.
    rows_ND = F.normalize(row_ND, dim=1) * length_N[:, None]
    return rows_ND, torch.lerp(rarest_bias, bias_N, NEIGHBOUR_BIAS_WEIGHT)


def add_catalogue_items(
    folder: Path, file: Path, out: Path, as_candidates: bool = True
) -> ModelCard:
    """Writes a copy of the checkpoint in `folder` with all items of the catalogue in `file`.

    Items without vectors are left out. `as_candidates`: the new items become candidates for next
    items, besides the frequent items and a user's previous items. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    catalogue = Catalogue.read(file)
    named = set(items)
    new = [item for item in catalogue.items_with_vectors() if item not in named]
    if not new:
        raise InputError(
            f"catalogue {file}: model {card.version} already names all items that have vectors"
        )
    # The vocabulary starts with the candidates.
    position = min(card.ranked_items, len(items)) if as_candidates else len(items)
    grown = add_items(model, rows_from_neighbours(model, items, catalogue, new), position)
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    fields["version"] = f"{card.version.partition('+')[0]}+{catalogue.fingerprint()[:8]}"
    fields["revision"] = card.revision + 1
    fields["ranked_items"] = (
        position + len(new) if as_candidates else min(position, card.ranked_items)
    )
    fields["data"]["catalogue"] = {
        "fingerprint": catalogue.fingerprint(),
        "modalities": {name: column._asdict() for name, column in catalogue.columns.items()},
        "items_added": len(new),
        "added_to": card.sha256,
    }
    names = [*items[:position], *new, *items[position:]]
    return checkpoint.save(out, grown, names, categories, **fields)
