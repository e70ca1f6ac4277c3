"""Adds items to the vocabulary of a user model.

Shape suffixes: N new items; D model width.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.encoding import hash_row
from models.profile.network import BehaviourTransformer
from models.profile.ranker.network import Ranker


class NewItems(NamedTuple):
    """What a model knows of N new items."""

    rows_ND: Tensor  # embedding rows
    bias_N: Tensor
    category_N: Tensor | None = None  # codes of their usual categories; 0: unknown; None: all are


def add_items(
    model: BehaviourTransformer, new: NewItems, position: int | None = None
) -> BehaviourTransformer:
    """A copy of the model with N more items.

    They follow the first `position` items (None: all items). Outputs for the other items
    do not change.
    """
    shape = model.shape
    position = shape.items if position is None else position
    start = shape.layout.item + 1 + position
    wider = shape._replace(items=shape.items + len(new.bias_N))
    grown = BehaviourTransformer(wider, model.fusion.modalities)
    state = model.state_dict()
    table = state["table"]
    state["table"] = torch.cat([table[:start], new.rows_ND.to(table), table[start:]])
    bias = state["item_bias"]
    state["item_bias"] = torch.cat([bias[:position], new.bias_N.to(table), bias[position:]])
    _insert_ranker_items(state, position, new)
    biased_items = len(state["ranker.item_bias"]) - 1
    grown.ranker = Ranker(shape.dim, shape.categories, wider.items, biased_items)
    grown.value_curves = copy.deepcopy(model.value_curves)
    grown.load_state_dict(state)
    return grown.train(model.training)


def _insert_ranker_items(state: dict[str, Tensor], position: int, new: NewItems) -> None:
    """Adds items with the usual categories of `new` and without a bias."""
    usual, count = state["ranker.item_category"], len(new.bias_N)
    category_N = usual.new_zeros(count) if new.category_N is None else new.category_N.to(usual)
    state["ranker.item_category"] = torch.cat([usual[:position], category_N, usual[position:]])
    bias = state["ranker.item_bias"]  # entry 0: items without a bias
    if position < len(bias) - 1:
        rare = bias[:1].expand(count)
        state["ranker.item_bias"] = torch.cat([bias[: 1 + position], rare, bias[1 + position :]])


def hash_bucket_rows(model: BehaviourTransformer, items: list[str], new: list[str]) -> NewItems:
    """New items with the rows of their hash buckets and the lowest bias.

    A model with these reads the new items as before.
    """
    row_N = [hash_row(name, len(items), model.shape.item_buckets) for name in new]
    rows_ND = model.table.detach()[model.shape.layout.item + np.array(row_N, np.int64)]
    return NewItems(rows_ND, model.item_bias.detach().min().expand(len(new)))
