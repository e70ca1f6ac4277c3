"""Which ids are one person at a time, and the records of the topic user-merges.

A merge says that an alias is another user from a time on; a split ends it. The other user may be an
alias itself, so an id resolves to the end of a chain: the person. Times are those of events, so an
event resolves to the same person however often it is read.

Records are CloudEvents 1.0 in JSON, keyed by the alias. A record holds all merges of an alias,
because compaction keeps one record of a key. schemas/user-merges.schema.json is their schema.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from liveprofile.errors import InputError
from liveprofile.wire.tokens import ID_CHARS
from liveprofile.wire.user_records import RecordKind, read_fields, read_time_ms, to_rfc3339

MAX_MERGES = 20  # of one alias, one after the other
MAX_IDS = 100  # of one person
END_OF_TIME_MS = 2**62


class MergeError(InputError):
    """A merge, a split or a record of merges is invalid."""


class Merge(NamedTuple):
    """An alias is a user from `since_ms` on, until `until_ms` if it was split."""

    user_id: str
    since_ms: int
    until_ms: int | None = None

    def holds(self, at_ms: int) -> bool:
        return self.since_ms <= at_ms and (self.until_ms is None or at_ms < self.until_ms)


def check_merges(alias_id: str, merges: Sequence[Merge]) -> None:
    """Raises MergeError unless the merges of an alias follow each other in time."""
    if len(merges) > MAX_MERGES:
        raise MergeError(f"{len(merges)} merges of one alias, at most {MAX_MERGES}")
    free_ms: int | None = 0
    for merge in merges:
        if merge.user_id == alias_id:
            raise MergeError("an id cannot be an alias of itself")
        if free_ms is None or merge.since_ms < free_ms:
            raise MergeError("merges of one alias must be in order of time without overlap")
        if merge.until_ms is not None and merge.until_ms < merge.since_ms:
            raise MergeError("a merge cannot end before it begins")
        free_ms = merge.until_ms


class IdentityTable:
    """The merges of all aliases. `put` may be called in another thread than the rest."""

    def __init__(self) -> None:
        self._merges: dict[str, tuple[Merge, ...]] = {}
        self._aliases: dict[str, tuple[str, ...]] = {}  # of each user at any time

    def put(self, alias_id: str, merges: Iterable[Merge]) -> None:
        """Replaces the merges of an alias; none: it is an id of its own. Raises MergeError."""
        merges = tuple(merges)
        check_merges(alias_id, merges)
        before = {merge.user_id for merge in self._merges.get(alias_id, ())}
        after = {merge.user_id for merge in merges}
        for user_id in after - before:
            self._aliases[user_id] = (*self._aliases.get(user_id, ()), alias_id)
        if merges:
            self._merges[alias_id] = merges
        else:
            self._merges.pop(alias_id, None)
        for user_id in before - after:
            left = tuple(each for each in self._aliases[user_id] if each != alias_id)
            if left:
                self._aliases[user_id] = left
            else:
                del self._aliases[user_id]

    def __len__(self) -> int:
        """The number of aliases."""
        return len(self._merges)

    def __contains__(self, user_id: str) -> bool:
        """Whether the id was merged with another one at any time."""
        return user_id in self._merges or user_id in self._aliases

    def aliases(self) -> list[str]:
        """All ids that were merged into another one at any time."""
        return sorted(self._merges)

    def merges(self, alias_id: str) -> tuple[Merge, ...]:
        """In the order of time."""
        return self._merges.get(alias_id, ())

    def resolve(self, user_id: str, at_ms: int) -> str:
        """The person that an id is at a time.

        Two commands at once could close a circle: its smallest id is the person then.
        """
        chain = [user_id]
        while (following := self._next(chain[-1], at_ms)) is not None:
            if following in chain:
                return min(chain[chain.index(following) :])
            chain.append(following)
        return chain[-1]

    def resolve_rows(self, user_ids: Sequence[str], times_ms: Sequence[int]) -> list[str]:
        """The person of each row."""
        merges = self._merges
        return [
            self.resolve(user_id, at_ms) if user_id in merges else user_id
            for user_id, at_ms in zip(user_ids, times_ms, strict=True)
        ]

    def owner(self, user_id: str, at_ms: int) -> str:
        """The person whose profile has an event of this id and time after a correction.

        The stream gives it to the person of its time. That one may have become an alias later: its
        whole profile moves then.
        """
        return self.resolve(self.resolve(user_id, at_ms), END_OF_TIME_MS)

    def ids_of(self, user_id: str, at_ms: int) -> list[str]:
        """All ids that are the same person as this one at a time, this one included, sorted."""
        return _closure(
            self.resolve(user_id, at_ms),
            lambda target: [
                alias_id
                for alias_id in self._aliases.get(target, ())
                if self._next(alias_id, at_ms) == target
            ],
        )

    def ever_merged(self, user_id: str) -> list[str]:
        """All ids that were merged with this one at any time, directly or through others, this one
        included, sorted."""
        return _closure(
            user_id,
            lambda each: [
                *(merge.user_id for merge in self._merges.get(each, ())),
                *self._aliases.get(each, ()),
            ],
        )

    def _next(self, user_id: str, at_ms: int) -> str | None:
        for merge in self._merges.get(user_id, ()):
            if merge.holds(at_ms):
                return merge.user_id
        return None


def _closure(start: str, neighbours: Callable[[str], list[str]]) -> list[str]:
    """All ids that can be reached from one, this one included, sorted."""
    found, todo = {start}, [start]
    while todo:
        new = [each for each in neighbours(todo.pop()) if each not in found]
        found.update(new)
        todo += new
    return sorted(found)


def merged(table: IdentityTable, alias_id: str, user_id: str, at_ms: int) -> tuple[Merge, ...]:
    """The merges of an alias with a new one from `at_ms` on.

    Raises MergeError if the alias is merged already, if the user is an alias of it, directly or
    through others, and if the person would have too many ids.
    """
    merges = table.merges(alias_id)
    if alias_id == user_id:
        raise MergeError(f"{alias_id!r} cannot be an alias of itself")
    if merges and merges[-1].until_ms is None:
        raise MergeError(
            f"{alias_id!r} is an alias of {merges[-1].user_id!r} already: split it first"
        )
    if table.resolve(user_id, END_OF_TIME_MS) == alias_id:
        raise MergeError(f"{user_id!r} is an alias of {alias_id!r}: the merge would be a circle")
    ids = len(table.ids_of(alias_id, END_OF_TIME_MS)) + len(table.ids_of(user_id, END_OF_TIME_MS))
    if ids > MAX_IDS:
        raise MergeError(f"the person would have {ids} ids, at most {MAX_IDS}")
    if len(merges) >= MAX_MERGES:
        raise MergeError(f"{alias_id!r} was merged {len(merges)} times, at most {MAX_MERGES}")
    last_ms = merges[-1].until_ms if merges else None
    return (*merges, Merge(user_id, max(at_ms, last_ms or 0)))


def split(
    table: IdentityTable, alias_id: str, at_ms: int, now_ms: int, limit_ms: int
) -> tuple[Merge, ...]:
    """The merges of an alias of which the last ends at `at_ms`.

    Raises MergeError if the alias is not merged, or was merged more than `limit_ms` before now.
    """
    merges = table.merges(alias_id)
    if not merges or merges[-1].until_ms is not None:
        raise MergeError(f"{alias_id!r} is no alias: there is nothing to split")
    last = merges[-1]
    if now_ms - last.since_ms > limit_ms:
        days = limit_ms / 86_400_000
        raise MergeError(f"{alias_id!r} was merged more than {days:g} days ago: such a merge stays")
    return (*merges[:-1], last._replace(until_ms=max(at_ms, last.since_ms)))


def of_persons(table: IdentityTable, user_ids: Iterable[str]) -> list[str]:
    """The ids, each followed by the other ids that are the same person now, without repetitions."""
    found: dict[str, None] = {}
    for user_id in user_ids:
        found[user_id] = None
        found |= dict.fromkeys(table.ids_of(user_id, END_OF_TIME_MS))
    return list(found)


def former_ids(table: IdentityTable, user_ids: Iterable[str]) -> list[str]:
    """Ids that were merged with these and split: profiles of one may have events of the other."""
    ids = set(of_persons(table, user_ids))
    return sorted({other for each in ids for other in table.ever_merged(each)} - ids)


def missing_erasures(
    table: IdentityTable, erased: Mapping[str, int], users: Iterable[str]
) -> dict[str, int]:
    """Erasures that are due because one id of a person is erased and another is not.

    erased: the time of each erasure, by user; users: whose persons are looked at.
    """
    due: dict[str, int] = {}
    for user_id in users:
        for other in table.ids_of(user_id, END_OF_TIME_MS):
            if max(erased.get(other, 0), due.get(other, 0)) < erased[user_id]:
                due[other] = erased[user_id]
    return due


def without_users(table: IdentityTable, erased: Container[str]) -> dict[str, tuple[Merge, ...]]:
    """By alias, the merges that are left where one names an erased user; none: no record."""
    left: dict[str, tuple[Merge, ...]] = {}
    for alias_id in table.aliases():
        merges = table.merges(alias_id)
        kept = tuple(each for each in merges if each.user_id not in erased)
        if alias_id in erased:
            left[alias_id] = ()
        elif kept != merges:
            left[alias_id] = kept
    return left


KIND = RecordKind(
    "liveprofile/merge",
    "liveprofile.user.merged",
    "https://liveprofile.example/schemas/user-merges.schema.json#/$defs/data",
)


def to_record(alias_id: str, merges: Sequence[Merge]) -> bytes:
    """The value of an alias's record; `merges` has one at least."""
    data = {"alias_id": alias_id, "merges": [merge_json(each) for each in merges]}
    last = merges[-1]
    time = to_rfc3339(last.since_ms if last.until_ms is None else last.until_ms)
    return KIND.value(alias_id, time, data)


def merge_json(merge: Merge) -> dict[str, str]:
    fields = {"user_id": merge.user_id, "since": to_rfc3339(merge.since_ms)}
    return fields if merge.until_ms is None else fields | {"until": to_rfc3339(merge.until_ms)}


def read_record(key: bytes | None, value: bytes) -> tuple[str, list[Merge]]:
    """The alias and its merges in the order of time. Raises MergeError."""
    alias_id, merges = read_fields(key, value, "alias_id", "merges", MergeError)
    if not alias_id:
        raise MergeError("data.alias_id is not the record's key")
    if not isinstance(merges, list):
        raise MergeError("data.merges is no list")
    found = [_read_merge(each) for each in merges]
    check_merges(alias_id, found)
    return alias_id, found


def _read_merge(value: Any) -> Merge:
    if not isinstance(value, dict):
        raise MergeError("a merge must be an object")
    user_id = value.get("user_id")
    if not isinstance(user_id, str) or not 0 < len(user_id) <= ID_CHARS:
        raise MergeError(f"user_id must be a text of 1 to {ID_CHARS} characters")
    until = value.get("until")
    return Merge(
        user_id,
        read_time_ms("since", value.get("since"), MergeError),
        None if until is None else read_time_ms("until", until, MergeError),
    )
