"""Rows for items that a model never saw, by what is known of them beside events: vectors of their
texts, images, voices.

A new item's row is the mean of the rows of the items that are most like it, weighted by how like
they are (Gantner et al. 2010, Learning Attribute-to-Feature Mappings for Cold-Start
Recommendations, ICDM, doi:10.1109/ICDM.2010.129). The model itself stays as it is.

Shape suffixes
    N new items   I items that the model names and the catalogue describes   K of these, a new one's
    neighbours   W width of the vectors   D model width
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liveprofile.errors import InputError
from models.profile import checkpoint, vocabulary_expansion
from models.profile.checkpoint import Card
from models.profile.data.catalogue import Catalogue
from models.profile.network import BehaviourTransformer

# Chosen on validation (docs/model.md).
NEIGHBOURS = 50
TEMPERATURE = 0.1  # of likenesses, from -1 to 1, as weights
AS_FREQUENT = 0.5  # as its neighbours; 0: as the rarest item
NEW_AT_ONCE = 1024


def like(
    model: BehaviourTransformer, items: list[str], catalogue: Catalogue, new: list[str]
) -> tuple[Tensor, Tensor]:
    """Rows (N, D) and biases (N,) of new items, each of which the catalogue describes."""
    vectors_IW = torch.from_numpy(catalogue.vectors(items))
    place_I = vectors_IW.any(1).nonzero().squeeze(1)
    if not len(place_I):
        raise InputError("the catalogue describes none of the items that the model names")
    vectors_IW, bias = vectors_IW[place_I], model.item_bias.detach()
    row_ID, bias_I = model.table.detach()[model.shape.layout.item + 1 + place_I], bias[place_I]
    found = []
    for new_NW in torch.from_numpy(catalogue.vectors(new)).split(NEW_AT_ONCE):
        # Each vector has length 1, so this is the mean cosine over the vectors of the new item.
        like_NI = new_NW @ vectors_IW.T / new_NW.square().sum(1, keepdim=True)
        like_NK, near_NK = like_NI.topk(min(NEIGHBOURS, len(place_I)))
        weight_NK = (like_NK / TEMPERATURE).softmax(1)
        near_NKD, bias_NK = row_ID[near_NK], bias_I[near_NK]
        found.append(
            from_means(
                torch.einsum("nk,nkd->nd", weight_NK, near_NKD),
                (weight_NK * near_NKD.norm(dim=2)).sum(1),
                (weight_NK * bias_NK).sum(1),
                bias.min(),
            )
        )
    rows_ND, bias_N = map(torch.cat, zip(*found, strict=True))
    return rows_ND, bias_N


def from_means(
    row_ND: Tensor, length_N: Tensor, bias_N: Tensor, rare: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows and biases of new items from the means over items like them, and the rarest's bias."""
    # A mean is shorter than what it is the mean of, and a short row says little.
    rows_ND = F.normalize(row_ND, dim=1) * length_N[:, None]
    return rows_ND, torch.lerp(rare, bias_N, AS_FREQUENT)


def add(folder: Path, file: Path, out: Path, as_candidates: bool = True) -> Card:
    """Writes the checkpoint in `folder` with all items that the catalogue in `file` describes.

    `as_candidates`: next items are chosen among the new ones too, beside the frequent ones and what
    a user has had. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    catalogue = Catalogue.read(file)
    named = set(items)
    new = [item for item in catalogue.described() if item not in named]
    if not new:
        raise InputError(
            f"catalogue {file}: model {card.version} names all items that it describes"
        )
    # Candidates come first.
    place = min(card.ranked_items, len(items)) if as_candidates else len(items)
    grown = vocabulary_expansion.with_items(model, *like(model, items, catalogue, new), place)
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    fields["version"] = f"{card.version.partition('+')[0]}+{catalogue.fingerprint()[:8]}"
    fields["revision"] = card.revision + 1
    fields["ranked_items"] = place + len(new) if as_candidates else min(place, card.ranked_items)
    fields["data"]["catalogue"] = {
        "fingerprint": catalogue.fingerprint(),
        "modalities": {name: one._asdict() for name, one in catalogue.modalities.items()},
        "items_added": len(new),
        "added_to": card.sha256,
    }
    names = [*items[:place], *new, *items[place:]]
    return checkpoint.save(out, grown, names, categories, **fields)
