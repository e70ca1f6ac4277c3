"""Adds items to a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.profile.encoding import hashed
from models.profile.network import BehaviourTransformer


def with_items(
    model: BehaviourTransformer, rows_ND: Tensor, bias_N: Tensor, place: int | None = None
) -> BehaviourTransformer:
    """A model of N items more with these rows and biases; for all others it says the same.

    They stand behind the first `place` items, or behind all.
    """
    shape = model.shape
    place = shape.items if place is None else place
    start = shape.layout.item + 1 + place
    wider = shape._replace(items=shape.items + len(rows_ND))
    grown = BehaviourTransformer(wider, model.fusion.modalities)
    state = model.state_dict()
    table = state["table"]
    state["table"] = torch.cat([table[:start], rows_ND.to(table), table[start:]])
    bias = state["item_bias"]
    state["item_bias"] = torch.cat([bias[:place], bias_N.to(table), bias[place:]])
    grown.load_state_dict(state)
    return grown


def as_read(model: BehaviourTransformer, items: list[str], new: list[str]) -> tuple[Tensor, Tensor]:
    """Rows and biases that change nothing: each new item's hash bucket, and a rare item's bias."""
    place = [hashed(name, len(items), model.shape.item_buckets) for name in new]
    rows_ND = model.table.detach()[model.shape.layout.item + np.array(place, np.int64)]
    return rows_ND, model.item_bias.detach().min().expand(len(new))
