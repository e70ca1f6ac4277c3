"""Batches of windows and what a ProfileUpdater needs beside them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from liveprofile.features import baselines
from liveprofile.feeds.feed import Fixed
from liveprofile.resources import product_path
from liveprofile.rules.rules import RuleSet, read_rules
from liveprofile.segments.segments import SegmentSet
from liveprofile.settings import load
from liveprofile.wire.tokens import EVENT, FIELD
from tests.support.memory.feeds import fixed_feeds
from tests.support.rows.rule_examples import rule_table
from udfs.profile.batch import ProfileBatch
from udfs.worker import Feeds

END_MS = 1_700_000_100_000
ANY_WINDOW = rule_table(
    id="any_window", scope="window", when="events >= threshold", value="events", threshold=1.0,
    reason="ANY_WINDOW", action="notify_customer_service", cool_down_hours=0, message="{value}",
)  # fmt: skip


def batch(*user_ids: str, fields: str = "") -> ProfileBatch:
    """One window with one view for each user; fields: more JSON fields of the event."""
    events, histories = [], []
    for user_id in user_ids:
        payload = (
            f'{{"event_id":"e-{user_id}","user_id":"{user_id}","event_type":"view",'
            f'"event_time":{END_MS - 1}{fields}}}'
        )
        events.append(FIELD.join((str(END_MS - 1), "a", "0", "7", payload)))
        token = FIELD.join((str(END_MS - 1), "a", "item", "category", "0.0"))
        histories.append(f"{END_MS}{EVENT}{token}")
    ends = np.full(len(user_ids), END_MS)
    sums = np.ones((len(user_ids), len(baselines.COLUMNS)))
    texts = (events, histories, [""] * len(user_ids))
    return ProfileBatch(list(user_ids), ends - 300_000, ends, *texts, sums, sums, [""] * len(ends))


class FailingModel:
    """A model that raises ValueError for the windows that `fails` picks."""

    def __init__(self, model: Any, fails: Callable[[Any], bool]):
        self._model, self._fails = model, fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, history: Any, window: Any, *inputs: Any) -> Any:
        if self._fails(window):
            raise ValueError("odd")
        return self._model.score(history, window, *inputs)


def feeds(rules: RuleSet | None = None, found: SegmentSet | None = None, **parts: Any) -> Feeds:
    """The shipped rules and no segments if not given. parts: values of other feeds."""
    rules = rules or read_rules(product_path(load().rules))
    values = {name: Fixed(value) for name, value in parts.items()}
    return fixed_feeds(load(), rules, found)._replace(**values)
