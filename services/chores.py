"""Chores: work that is repeated for ever, by one process of several (docs/operate.md#chores).

A process works while it holds a lease in Cassandra. If it dies, another one takes over when the
lease has ended. Every chore may be killed and repeated, so that it does no harm if two overlap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from cassandra.cluster import Session

from liveprofile.errors import LiveprofileError, ServiceError, SetupError
from liveprofile.rows.operations import CHORE
from liveprofile.settings import Settings
from liveprofile.storage.cql import execute, from_ms, now_ms, read, to_ms
from liveprofile.storage.lease import process_name, take
from liveprofile.storage.schema import missing_names
from liveprofile.units import SECOND_MS

log = logging.getLogger(__name__)

SCOPE = "chores"
# Another process works at most LEASE_S + RENEW_S after the last renewal of one that was killed.
LEASE_S, RENEW_S = 20, 4.0
POLL_S = 1.0
RETRY_S = 300.0  # after a failure, at most
REPEAT_LOG_S = 300.0  # a warning is logged again
NOTE_MS = 10 * SECOND_MS  # successes of a chore are stored at most so often
OVERDUE_INTERVALS, OVERDUE_S = 3, 60.0


class Warnings:
    """Logs each text once, and again after REPEAT_LOG_S. For several threads."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic):
        self._clock_s, self._next_s = clock_s, dict[str, float]()

    def log(self, text: str) -> None:
        if (now_s := self._clock_s()) >= self._next_s.get(text, 0.0):
            self._next_s[text] = now_s + REPEAT_LOG_S
            log.warning("%s", text)


class Chore(NamedTuple):
    name: str
    every_s: float
    run: Callable[[], object]  # raises an exception if it has failed


class ChoreRun(NamedTuple):
    """The last run of a chore."""

    name: str
    started_ms: int
    succeeded_ms: int  # when the last run without an error ended; 0: none has
    error: str  # of the last run; "": none

    def age_s(self, now_ms: int) -> float:
        """Seconds since the last success."""
        return (now_ms - self.succeeded_ms) / SECOND_MS


class Lease:
    """The right to work, which ends LEASE_S after the last renewal.

    take: sets the holder if it is the expected one (None: nobody), and returns whether it was.
    """

    def __init__(
        self,
        take: Callable[[str, str | None], bool],
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self.holder = process_name()
        self._take, self._clock_s, self._until_s = take, clock_s, float("-inf")

    @property
    def is_held(self) -> bool:
        return self._clock_s() < self._until_s

    def renew(self) -> None:
        """Takes the lease or holds it for longer. Raises ServiceError; then it ends as it was."""
        asked_s = self._clock_s()
        # Also from itself: an answer that was lost may have been given.
        if self._take(self.holder, self.holder) or self._take(self.holder, None):
            self._until_s = asked_s + LEASE_S
        else:
            self._until_s = float("-inf")


class ChoreStore:
    """The table `chore`. Every method raises ServiceError."""

    def __init__(self, session: Session, settings: Settings):
        self._session, self._keyspace = session, settings.cassandra.keyspace
        self._insert = CHORE.insert(
            settings.cassandra.history_ttl_s, time="", without=("holder",), mark="%s"
        )

    def take(self, holder: str, expected: str | None) -> bool:
        """As `Lease` needs it."""
        return take(self._session, SCOPE, holder, expected, LEASE_S) == holder

    def missing(self) -> list[str]:
        """The names of the tables and indexes that are not there yet."""
        return missing_names(self._session, self._keyspace)

    def note(self, run: ChoreRun) -> None:
        times = (from_ms(run.started_ms), from_ms(run.succeeded_ms))
        execute(self._session, self._insert, (SCOPE, run.name, *times, run.error))

    def runs(self) -> dict[str, ChoreRun]:
        """By name."""
        query = "SELECT name, started, succeeded, error FROM chore WHERE scope = %s"
        # Without runs, the row of the lease has no name.
        return {
            row.name: ChoreRun(row.name, to_ms(row.started), to_ms(row.succeeded), row.error or "")
            for row in read(self._session, query, (SCOPE,))
            if row.name is not None
        }


class Chores:
    """Runs chores at their intervals while it holds the lease, each in a thread of its own.

    `liveprofile job setup` creates the table of the lease first and fills the topics last. Until
    then chores wait, which is no failure.
    """

    def __init__(
        self,
        chores: Sequence[Chore],
        store: ChoreStore,
        lease: Lease | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ):
        self._chores, self._store, self._clock_ms = chores, store, clock_ms
        self.lease, self._warnings = lease or Lease(store.take), Warnings()
        self._has_tables = False
        self._last: dict[str, ChoreRun] = {}  # of this process, since it has the lease
        self._noted_ms: dict[str, int] = {}

    def turn(self, chore: Chore) -> float:
        """Runs a chore if it is due; returns after how many seconds to ask again.

        Raises ServiceError if it is not known whether it is due.
        """
        if not self.lease.is_held:
            self._last.pop(chore.name, None)
            return POLL_S
        if not self._has_tables:
            if self._store.missing():
                self._warnings.log("waiting for the tables: `liveprofile job setup` creates them")
                return POLL_S
            self._has_tables = True
        now, last = self._clock_ms(), self._last.get(chore.name)
        if last is None and (last := self._store.runs().get(chore.name)):
            self._last[chore.name] = last
        every_s = min(chore.every_s, RETRY_S) if last and last.error else chore.every_s
        wait_s = every_s - (now - last.started_ms) / SECOND_MS if last else 0.0
        if 0 < wait_s <= every_s:  # longer: the clock was set back
            return min(wait_s, POLL_S)
        error = ""
        try:
            chore.run()
        except LiveprofileError as raised:
            error = str(raised)
            if isinstance(raised, SetupError) and not (last and last.succeeded_ms):
                self._warnings.log(f"{chore.name} waits: {error}")
                return POLL_S
            log.warning("%s: %s", chore.name, error)
        except Exception as raised:
            # The other chores go on, and this one may succeed at its next time.
            error = f"{type(raised).__name__}: {raised}"
            log.exception("%s has failed", chore.name)
        before_ms = last.succeeded_ms if last else 0
        run = ChoreRun(chore.name, now, before_ms if error else self._clock_ms(), error)
        self._last[chore.name] = run
        if error or now >= self._noted_ms.get(chore.name, 0) + NOTE_MS:
            self._store.note(run)
            self._noted_ms[chore.name] = now
        return 0.0

    def run(self) -> NoReturn:
        """Works until the process ends, and chores under way with it."""
        for each in self._chores:
            threading.Thread(target=self._follow, args=(each,), daemon=True).start()
        while True:
            held = self.lease.is_held
            try:
                self.lease.renew()
            except ServiceError as error:
                self._warnings.log(f"the lease is not renewed: {error}")
            if self.lease.is_held != held:
                log.warning("%s the lease", "lost" if held else "holding")
            time.sleep(RENEW_S)

    def _follow(self, chore: Chore) -> NoReturn:
        while True:
            pause_s = POLL_S
            try:
                pause_s = self.turn(chore)
            except ServiceError as error:
                self._warnings.log(f"{chore.name}: {error}")
            time.sleep(pause_s)


def intervals_s(settings: Settings) -> dict[str, float]:
    """The seconds between two runs of each chore that is not turned off, by name."""
    found = settings.chores.model_dump()
    return {name.removesuffix("_s"): every_s for name, every_s in found.items() if every_s}


def overdue(settings: Settings, runs: Mapping[str, ChoreRun], now_ms: int) -> Iterator[str]:
    """A line for each chore that has run, and succeeded too long ago."""
    for name, every_s in intervals_s(settings).items():
        run = runs.get(name)
        if run is None or run.age_s(now_ms) <= max(OVERDUE_INTERVALS * every_s, OVERDUE_S):
            continue
        since = f"for {run.age_s(now_ms):,.0f} s" if run.succeeded_ms else "yet"
        yield f"chore {name} has not succeeded {since}" + (run.error and f": {run.error}")
