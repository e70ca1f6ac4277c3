"""A benchmark's workload: seeded behaviour events, most of them from few users, sent to Kafka.

For throughput runs all events are sent in one transaction before the clock starts; its commit makes
them visible at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from intake.files.replay import ReplayProducer
from liveprofile.events import window_times
from liveprofile.settings import Settings, WindowSettings
from liveprofile.units import HOUR_MS

START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC
ITEMS, CATEGORIES = 5_000, 100
TYPES = ("view", "cart", "favorite", "search", "purchase")
TYPE_SHARES = (0.80, 0.08, 0.04, 0.04, 0.04)
CHANNELS = ("app", "web", "shop")
WARM_UP_SHARE = 0.5
TRANSACTION_TIMEOUT_MS = 840_000  # the broker's maximum is 900 s


class EventMessage(NamedTuple):
    key: bytes  # user_id
    value: bytes  # JSON, 200 to 300 bytes


@dataclass(frozen=True)
class Workload:
    """`n` events over `hours` hours from `start_ms`, from a fixed seed.

    The user is `rank % users`, with a rank drawn from an unbounded Zipf law (exponent `zipf` > 1),
    so the tail spreads evenly over all users. Items and categories follow bounded Zipf laws.
    Different seeds share no event_id.
    """

    n: int = 400_000
    users: int = 20_000
    zipf: float = 1.3
    hours: float = 6
    seed: int = 1
    start_ms: int = START_MS

    @classmethod
    def of(cls, n: int, users: int) -> Workload:
        """The default number of events per hour, so `n` does not change profiles per window."""
        return cls(n, users, hours=cls.hours * n / cls.n)

    def messages(self) -> Iterator[EventMessage]:
        """The events in order of time."""
        rng, time_ms, user = self._first_draws()
        kind = rng.choice(len(TYPES), self.n, p=TYPE_SHARES)
        item = rng.choice(ITEMS, self.n, p=_zipf_shares(ITEMS, 1.1))
        category_of = rng.choice(CATEGORIES, ITEMS, p=_zipf_shares(CATEGORIES, 1.0))
        price_of = np.round(np.exp(rng.normal(3.0, 0.9, ITEMS)) + 0.5, 2)
        quantity = rng.geometric(0.8, self.n)
        # A user has a session per hour, one or two devices and one channel.
        session, device = time_ms // HOUR_MS, rng.random(self.n) < 0.2
        columns = (time_ms, user, kind, item, category_of[item], price_of[item], quantity)
        rows = zip(*(each.tolist() for each in (*columns, session, device)), strict=True)
        for number, row in enumerate(rows):
            at_ms, user_no, type_no, item_no, category_no, price, count, session_no, second = row
            user_id = user_id_of(user_no)
            has_quantity = TYPES[type_no] in ("purchase", "cart")
            quantity_field = f',"quantity":{count}' if has_quantity else ""
            text = (
                f'{{"event_id":"e{self.seed}-{number:09d}","user_id":"{user_id}"'
                f',"event_type":"{TYPES[type_no]}","event_time":{at_ms}'
                f',"item_id":"i{item_no:06d}","category_id":"c{category_no:03d}"'
                f',"price":{price}{quantity_field}'
                f',"session_id":"s{user_no:07d}-{session_no}"'
                f',"device_id":"d{user_no:07d}-{int(second)}"'
                f',"channel":"{CHANNELS[user_no % len(CHANNELS)]}"}}'
            )
            yield EventMessage(user_id.encode(), text.encode())

    def times_and_users(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) ascending times in ms and (n,) user numbers of `messages`."""
        return self._first_draws()[1:]

    def _first_draws(self) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        time_ms = self.start_ms + np.sort(rng.integers(0, int(self.hours * HOUR_MS), self.n))
        return rng, time_ms, rng.zipf(self.zipf, self.n) % self.users

    def profiles(self, window: WindowSettings, until_ms: int | None = None) -> int:
        """The number of profiles of these events: pairs of user and window.

        until_ms: counts only windows that end by this time; None counts all.
        """
        time_ms, user = self.times_and_users()
        shift_ms = np.array(
            [window_times.stagger_offset_ms(user_id_of(who), window) for who in range(self.users)]
        )
        end_ms = window_times.end_ms(time_ms, shift_ms[user], window)
        closed = slice(None) if until_ms is None else end_ms <= until_ms
        return len(np.unique((end_ms * self.users + user)[closed]))

    @property
    def end_ms(self) -> int:
        return self.start_ms + int(self.hours * HOUR_MS)

    def warm_up(self) -> Workload:
        """The events before this workload: they load the model and trigger JIT compilation."""
        hours = self.hours * WARM_UP_SHARE
        return replace(
            self,
            n=int(self.n * WARM_UP_SHARE),
            hours=hours,
            seed=self.seed + 1,
            start_ms=self.start_ms - int(hours * HOUR_MS),
        )


def _zipf_shares(ranks: int, exponent: float) -> np.ndarray:
    """(ranks,) probabilities proportional to rank^-exponent: a bounded Zipf law."""
    shares = np.arange(1, ranks + 1, dtype=np.float64) ** -exponent
    return shares / shares.sum()


def user_id_of(number: int) -> str:
    return f"u{number:07d}"


class EventSender(ReplayProducer):
    """Sends messages to the input topic, partitioned by key.

    transaction: consumers see no message before `commit`. Raises ServiceError.
    """

    def __init__(self, settings: Settings, *, transaction: bool = False, linger_ms: int = 20):
        topic, options = settings.topics.events, {"linger.ms": linger_ms}
        if transaction:
            options |= {
                "transactional.id": f"benchmark-{topic}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            }
        super().__init__(settings, topic, options=options)
        self._out_of_orderness_ms = settings.window.out_of_orderness_ms
        if transaction:
            self._producer.init_transactions()
            self._producer.begin_transaction()

    def send_message(self, message: EventMessage) -> None:
        self.produce(message.value, message.key)

    def send_workload(self, workload: Workload, until_ms: int) -> None:
        """Sends the workload and, to each partition, a heartbeat that moves the watermark to
        `until_ms`. Returns when Kafka has acknowledged everything. Raises ServiceError.
        """
        for message in workload.messages():
            self.send_message(message)
        self.send_heartbeats(until_ms + self._out_of_orderness_ms)
        self.flush()

    def commit(self) -> None:
        self._producer.commit_transaction()


def send_warm_up(settings: Settings, workload: Workload) -> None:
    EventSender(settings).send_workload(workload.warm_up(), workload.start_ms)


def send_hidden(settings: Settings, workload: Workload) -> Callable[[], None]:
    """Sends the measured events and the heartbeats that close their windows in a transaction.

    Returns the function that commits it, which makes the events visible.
    """
    sender = EventSender(settings, transaction=True)
    sender.send_workload(workload, workload.end_ms + settings.window.length_ms)
    return sender.commit
