"""The order in which logins count: that of their arrival at the broker. Pure.

Which account has an anonymous id depends on which login is first. The two may be in different
partitions, and how fast partitions are read changes with each run. So a login is held until no
earlier one can come from any partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from liveprofile.identity.logins import Login

NO_ORDER = (-1, -1, -1)


class LoginOrder:
    """Holds the first login of each pair of ids in a partition, until no earlier one can come.

    Timestamps of a partition's records must not fall, as those that brokers set on arrival do not.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], Login] = {}
        self._clock_ms: dict[int, int] = {}  # timestamp of the last record, by partition
        self._asked: tuple[dict[int, int], tuple[int, int, int]] | None = None
        self._settled = NO_ORDER  # no earlier login than this one can come

    def __len__(self) -> int:
        """The number of logins that are held."""
        return len(self._held)

    def hold(self, login: Login) -> bool:
        """False: the same login is held already."""
        key = (login.anonymous_id, login.user_id, login.partition)
        return self._held.setdefault(key, login) is login

    def has_read(self, partition: int, record_ms: int) -> None:
        """Each record of the topic, with a login or without."""
        self._clock_ms[partition] = record_ms

    @property
    def needs_ends(self) -> bool:
        """Whether logins are held that only the topic's present ends can settle."""
        return bool(self._held) and self._asked is None

    def ask(self, ends: Mapping[int, int]) -> None:
        """The ends of all partitions, queried just now: what arrived before a login that is held
        now is before them."""
        last = max((each.order for each in self._held.values()), default=NO_ORDER)
        self._asked = (dict(ends), last)

    def release(self, positions: Mapping[int, int], at_most: int) -> list[Login]:
        """Takes out logins to which no earlier one can come, in order.

        positions: by partition, the offset up to which it was read.
        """
        if self._asked is not None:
            _, last = self._asked
            if not self._behind(positions):
                self._settled, self._asked = max(self._settled, last), None
        horizon_ms = min((self._clock_ms.get(number, -1) for number in positions), default=-1)
        settled = max(self._settled, (horizon_ms, NO_ORDER[1], NO_ORDER[2]))
        ready = sorted(
            (each for each in self._held.values() if each.order <= settled),
            key=lambda each: each.order,
        )[:at_most]
        for each in ready:
            del self._held[each.anonymous_id, each.user_id, each.partition]
        return ready

    def slowest(self, positions: Mapping[int, int]) -> list[int]:
        """The partitions for which the others wait."""
        behind = self._behind(positions) or list(positions)
        earliest_ms = min(self._clock_ms.get(number, -1) for number in behind)
        return [number for number in behind if self._clock_ms.get(number, -1) <= earliest_ms]

    def done(self, positions: Mapping[int, int]) -> dict[int, int]:
        """By partition, the offset before which no login is held."""
        done = dict(positions)
        for each in self._held.values():
            done[each.partition] = min(done[each.partition], each.offset)
        return done

    def _behind(self, positions: Mapping[int, int]) -> Iterable[int]:
        ends = self._asked[0] if self._asked else {}
        return [number for number, end in ends.items() if positions[number] < end]
