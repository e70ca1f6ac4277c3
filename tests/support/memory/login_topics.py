"""Kafka in memory, for `liveprofile identity link-logins`: events that arrive while they are read,
merges, and offsets that are committed with them."""

import random
from collections.abc import Iterable, Sequence

from liveprofile.consent.changes import ConsentTable, PersonConsentTable
from liveprofile.identity.merges import IdentityTable, read_record
from liveprofile.kafka.records import OutputRecord, Progress, Record
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.settings import Settings
from services.logins import Decisions, LoginMerger, read_counts


class ProcessKilledError(Exception):
    """The process ends here."""


class MemoryKafka:
    """The topics. records: in the order of their arrival."""

    def __init__(self, records: Sequence[Record], partitions: int, rng: random.Random):
        self.records, self.partitions, self.rng = records, partitions, rng
        self.arrived = 0
        self.merges: list[tuple[bytes | None, bytes | None]] = []
        self.progress: dict[int, Progress] = {}
        self.commits_left: int | None = None  # then the process is killed

    def arrive(self) -> None:
        self.arrived = min(len(self.records), self.arrived + self.rng.randint(0, 5))

    def of_partition(self, number: int) -> list[Record]:
        return [each for each in self.records[: self.arrived] if each.partition == number]

    def table(self) -> IdentityTable:
        table = IdentityTable()
        for key, value in self.merges:
            table.put(*read_record(key, value or b""))
        return table


class MemoryEvents:
    """Reads some partitions, and some records of each."""

    def __init__(self, kafka: MemoryKafka):
        self._kafka = kafka
        self.positions = {
            number: kafka.progress.get(number, Progress(0)).offset
            for number in range(kafka.partitions)
        }

    def poll(self, timeout_s: float) -> list[Record]:
        self._kafka.arrive()
        found: list[Record] = []
        for number in self.positions:
            if self._kafka.rng.random() < 0.6:
                position = self.positions[number]
                count = self._kafka.rng.randint(0, 6)
                records = self._kafka.of_partition(number)[position : position + count]
                self.positions[number] += len(records)
                found += records
        return found

    def ends(self) -> dict[int, int]:
        return {each: len(self._kafka.of_partition(each)) for each in self.positions}

    def has_read(self, ends: dict[int, int]) -> bool:
        return all(self.positions[number] >= end for number, end in ends.items())

    def group_metadata(self) -> str:
        return "group"

    def close(self) -> None: ...


class MemoryTransactions:
    """Commits all or nothing; the process may be killed before a commit or after it."""

    def __init__(self, kafka: MemoryKafka):
        self._kafka = kafka

    def commit(
        self,
        topic: str,
        records: Iterable[OutputRecord],
        input_topic: str,
        progress: dict[int, Progress],
        group_metadata: str,
    ) -> None:
        kafka = self._kafka
        dies = kafka.commits_left == 0
        if dies and kafka.rng.random() < 0.5:
            raise ProcessKilledError
        kafka.merges += [(key, value) for key, value, _ in records]
        kafka.progress |= progress
        if dies:
            raise ProcessKilledError
        if kafka.commits_left is not None:
            kafka.commits_left -= 1


def opened(kafka: MemoryKafka, settings: Settings, now_ms: int) -> LoginMerger:
    """A new process, where the last one was."""
    defaults = settings.consent.defaults

    def read_decisions() -> Decisions:
        table = kafka.table()
        of_persons = PersonConsentTable(ConsentTable(defaults), table, defaults)
        return Decisions(table, of_persons, ErasureTable())

    return LoginMerger(
        settings,
        MemoryEvents(kafka),
        MemoryTransactions(kafka),
        read_decisions,
        read_counts(kafka.progress),
        clock_ms=lambda: now_ms,
    )


def run_to_end(kafka: MemoryKafka, merger: LoginMerger) -> None:
    """Until all events have arrived and are read, decided about and committed."""
    while sum(each.offset for each in kafka.progress.values()) < len(kafka.records):
        merger.step()
        merger.commit_progress()
