"""Random event streams for the tests of the baseline models and of the bootstrap.

Shape suffixes: N events, W windows.
"""

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE, build_corpus
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary

START_MS = 17_167 * DAY_MS  # 2017-01-01


def make_streams(user_N, time_ms_N, type_N, amount_N, item_N, window_ms=DAY_MS):
    """The windows of these events. An item's name is its code; item 0 has no name."""
    order = np.lexsort((time_ms_N, user_N))
    user_N, time_ms_N, type_N, amount_N, item_N = (
        np.asarray(column)[order] for column in (user_N, time_ms_N, type_N, amount_N, item_N)
    )
    window_N = time_ms_N // window_ms
    new_N = (np.diff(user_N, prepend=-1) != 0) | (np.diff(window_N, prepend=-1) != 0)
    first_W = np.flatnonzero(new_N)
    fields = {
        "users": int(user_N.max()) + 1,
        "items": ["" if code == 0 else str(code) for code in range(int(item_N.max()) + 1)],
        "categories": [str(code) for code in range(5)],
        "item_N": item_N,
        "category_N": item_N % 5,
        "type_N": type_N,
        "amount_N": amount_N,
        "time_ms_N": time_ms_N,
        "user_W": user_N[first_W],
        "end_ms_W": (window_N[first_W] + 1) * window_ms,
        "first_W": first_W,
        "last_W": np.append(first_W[1:], len(user_N)),
        "unusable_events": 0,
    }
    return Streams(**{name: fields.get(name) for name in Streams._fields})


def streams_of_rows(rows):
    """`make_streams` of rows (user, time in ms, type, amount, item)."""
    return make_streams(*(np.array(column) for column in zip(*rows, strict=True)))


def split_at(streams, *days):
    """The windows that end up to each of three days after START_MS."""
    until_ms = [START_MS + day * DAY_MS for day in days]
    part_W = np.searchsorted(until_ms, np.asarray(streams.end_ms_W))
    return Split(*(np.flatnonzero(part_W == part) for part in range(3)), *until_ms)


def churning_customers(users=80, days=200, seed=2):
    """Purchases at each user's own rate and amount until the user churns, half of them early.

    Users buy mostly item 1 on their last days before they churn.
    """
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        rate, amount = random.uniform(0.02, 0.5), random.lognormal(2, 0.7)
        churn_day = random.integers(20, days) if user % 2 else days
        for day in range(days):
            if day < churn_day and (day == 0 or random.random() < rate):
                last_days = churn_day < days and day > churn_day - 8
                for _ in range(3):
                    item = 1 if last_days and random.random() < 0.8 else random.integers(2, 40)
                    time_ms = START_MS + day * DAY_MS + random.integers(DAY_MS)
                    rows.append((user, time_ms, PURCHASE, amount * random.lognormal(0, 0.3), item))
    return streams_of_rows(rows)


def corpus_and_split(streams):
    """With a split at days 110, 150 and 200."""
    corpus = build_corpus(streams, Vocabulary([], 1), Vocabulary([], 1))
    return corpus, split_at(streams, 110, 150, 200)
