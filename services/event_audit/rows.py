"""What the audit keeps of each input record and stored event: rows of fixed size.

Shapes: N rows.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from liveprofile.events.validation import event_time_ms
from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.identity.merges import END_OF_TIME_MS, IdentityTable
from liveprofile.kafka.records import Record
from liveprofile.settings import WindowSettings
from liveprofile.storage.queries import WindowDigests
from liveprofile.wire.window_events import InvalidEventError, as_id, digest, load

NO_TIME = -(2**63)
EVENT, HEARTBEAT, UNREADABLE = 0, 1, 2
BATCH_ROWS = 10_000
BATCH_WINDOWS = 5_000

OFFSET_BITS = 48
_NO_EVENT = bytes(8)
# The golden ratio times 2^64, odd: positions times this are distinct and spread evenly.
SPREAD = np.uint64(0x9E3779B97F4A7C15)

INPUT_ROW = np.dtype(
    [
        ("key", np.uint64),  # digest of the event_id; a number of the position if not an EVENT
        ("user", np.uint64),  # hash of the user, see `person_hash`
        ("position", np.int64),  # see `position`
        ("timestamp_ms", np.int64),  # Kafka's record timestamp
        ("time_ms", np.int64),  # event time; NO_TIME if missing or unreadable
        ("end_ms", np.int64),  # end of the user's window at time_ms; NO_TIME without a time
        ("kind", np.uint8),  # EVENT, HEARTBEAT or UNREADABLE
        ("in_range", np.bool_),  # False: read only because records of the range depend on it
        ("erased", np.bool_),  # its window began before its user was erased
    ],
    align=True,
)
STORED_ROW = np.dtype(
    [
        ("key", np.uint64),  # digest of the event_id
        ("user", np.uint64),  # hash of the user, see `person_hash`
        ("proven", np.bool_),  # every record that its window may have used has been read
        ("corrected", np.bool_),  # its delta is of a correction, which uses late events
        ("alias", np.bool_),  # its user is another id of a person now
    ],
    align=True,
)


def position(partition: int, offset: int) -> int:
    """Packs partition and offset into one integer that sorts by both."""
    return partition << OFFSET_BITS | offset


def split_position(position: int) -> tuple[int, int]:
    """Returns (partition, offset)."""
    return position >> OFFSET_BITS, position & ((1 << OFFSET_BITS) - 1)


def partitions(rows: np.ndarray) -> np.ndarray:
    """(N,) int64: the partition of each INPUT_ROW."""
    return rows["position"] >> OFFSET_BITS


def user_hash(user_id: str) -> bytes:
    """Differs from `digest`: an event and a user with the same id must not cancel out in XOR."""
    text = user_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8, person=b"user").digest()


def person_hash(user_id: str, identities: IdentityTable) -> bytes:
    """Of all ids that were ever merged, the hash of the first: an event counts for any of them."""
    if user_id in identities:
        user_id = identities.ever_merged(user_id)[0]
    return user_hash(user_id)


IsErased = Callable[[str, int], bool]  # of a user and the start of a window in ms


def nobody_erased(user_id: str, start_ms: int) -> bool:
    return False


def input_rows(
    records: Iterable[Record],
    window: WindowSettings,
    is_erased: IsErased = nobody_erased,
    identities: IdentityTable | None = None,
) -> Iterator[np.ndarray]:
    """Yields INPUT_ROWs, BATCH_ROWS at a time; `in_range` is False.

    identities: the merges that the job follows; None: none.
    """
    records, table = iter(records), IdentityTable() if identities is None else identities
    # Payloads may be large: of each record only these values are kept.
    while batch := [
        (*parse_event(record.value), position(record.partition, record.offset), record.timestamp_ms)
        for record in itertools.islice(records, BATCH_ROWS)
    ]:
        kinds, times_ms, events, users, positions, timestamps_ms = zip(*batch, strict=True)
        rows = np.zeros(len(batch), INPUT_ROW)
        rows["kind"] = kinds
        rows["key"] = np.frombuffer(b"".join(events), ">u8")
        rows["user"] = np.frombuffer(b"".join(person_hash(user, table) for user in users), ">u8")
        rows["position"] = positions
        rows["timestamp_ms"] = timestamps_ms
        rows["time_ms"] = times_ms
        # Windows are those of the person that the job has keyed the event by.
        users = table.resolve_rows(users, times_ms)
        rows["end_ms"] = [
            NO_TIME if ms == NO_TIME else end_ms(ms, stagger_offset_ms(user, window), window)
            for ms, user in zip(times_ms, users, strict=True)
        ]
        rows["erased"] = [
            end != NO_TIME and is_erased(user, end - window.length_ms)
            for end, user in zip(rows["end_ms"].tolist(), users, strict=True)
        ]
        other = rows["kind"] != EVENT
        rows["key"][other] = rows["position"][other].view(np.uint64) * SPREAD
        yield rows


def parse_event(value: bytes | None) -> tuple[int, int, bytes, str]:
    """Returns (kind, time_ms, event digest, user_id); zeros and "" if the record is no event."""
    try:
        event = load(value or b"")
    except InvalidEventError:
        return UNREADABLE, NO_TIME, _NO_EVENT, ""
    time_ms = event_time_ms(event.get("event_time"))
    time_ms = NO_TIME if time_ms is None else time_ms
    if event.get("event_type") == "heartbeat":
        return HEARTBEAT, time_ms, _NO_EVENT, ""
    event_id, user_id = as_id(event.get("event_id")), as_id(event.get("user_id"))
    if not event_id or not user_id:
        return UNREADABLE, time_ms, _NO_EVENT, ""
    return EVENT, time_ms, digest(event_id), user_id


def stored_rows(
    deltas: Iterable[WindowDigests],
    first_window_ms: int,
    watermark_ms: int,
    identities: IdentityTable | None = None,
) -> Iterator[np.ndarray]:
    """Yields STORED_ROWs, one for each event that a stored delta used, in batches.

    Proven are windows that start at `first_window_ms` or later and that `watermark_ms` has closed.
    identities: as of `input_rows`. Raises ValueError if the digests are not 8 bytes each.
    """
    deltas, table = iter(deltas), IdentityTable() if identities is None else identities
    while batch := list(itertools.islice(deltas, BATCH_WINDOWS)):
        for delta in batch:
            if len(delta.digests) != 8 * delta.events:
                raise ValueError(
                    f"the delta that ends at {delta.window_end_ms} has {len(delta.digests)} bytes"
                    f" of digests for {delta.events} events, not 8 each"
                )
        ids = [delta.user_id for delta in batch]
        users = np.frombuffer(b"".join(person_hash(user_id, table) for user_id in ids), ">u8")
        aliases = [user_id != table.resolve(user_id, END_OF_TIME_MS) for user_id in ids]
        starts = np.array([delta.window_start_ms for delta in batch])
        ends = np.array([delta.window_end_ms for delta in batch])
        proven = (starts >= first_window_ms) & (ends - 1 <= watermark_ms)
        digests = np.frombuffer(b"".join(delta.digests for delta in batch), ">u8")
        events = [delta.events for delta in batch]
        rows = np.empty(len(digests), STORED_ROW)
        rows["key"] = digests
        rows["user"] = np.repeat(users, events)
        rows["proven"] = np.repeat(proven, events)
        rows["corrected"] = np.repeat([bool(delta.revision) for delta in batch], events)
        rows["alias"] = np.repeat(aliases, events)
        yield rows
