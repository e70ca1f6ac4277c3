"""Datasets of simulated shops, to train and evaluate the fraud model on."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator import ShopConfig
from liveprofile.units import DAY_MS
from models.fraud.datasets.event_dataset import EventDataset
from models.fraud.datasets.labelled_features import LabelledFeatures, downsample_legitimate
from models.fraud.datasets.simulated_shop import hide_entities, simulate_shop


def simulate_dataset(
    config: ShopConfig,
    names: list[str],
    delay_days: float,
    from_day: int,
    legitimate: int | None,
    hide_entity_ids: bool = False,
) -> EventDataset:
    """Simulates a shop and returns its events from `from_day` on.

    Features also count the events before that day.
    legitimate: how many legitimate events to draw at random; None keeps all.
    hide_entity_ids: whether users lack some entities (simulated_shop.hide_entities).
    """
    shop = simulate_shop(config)
    if hide_entity_ids:
        shop = hide_entities(shop, config.seed)
    rows = np.flatnonzero(shop.time_ms_N >= config.start_ms + from_day * DAY_MS)
    weight = 1.0
    if legitimate is not None:
        chosen, weight = downsample_legitimate(shop.fraud_N[rows], legitimate)
        rows = rows[chosen]
    return EventDataset(
        LabelledFeatures(shop.history.features(rows, names, delay_days), shop.fraud_N[rows]),
        weight,
        shop.history.events.amount[rows],
        shop.type_N[rows],
        shop.time_ms_N[rows],
        shop.user_N[rows].astype(np.int64),
        shop.case_N[rows],
        shop.case_kind_N[rows],
        config.users * (config.days - from_day),
    )
