"""Applies changes of consents that came after rows were stored."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from cli.progress import progress
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from liveprofile.audit.rows import InputRecord
    from liveprofile.identity.book import IdentityBook
    from liveprofile.privacy.withdrawals import StoredRow
    from liveprofile.settings import Settings

SETTLE_S = 2.0  # until the workers know of a change
USERS_AT_ONCE = 8
Used = tuple[str, bytes]  # a user and the digest of an event
Outgoing = tuple[bytes | None, bytes | None, dict[str, str]]  # key, value and headers


def backwards(
    users: Annotated[list[str] | None, typer.Argument()] = None,
    delete: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Find rows that consents forbid, because a change came after they were stored.

    A change that is older than the windows that it concerns finds them stored. --delete rejects
    their events with NO_CONSENT, so that the audit accounts for them, and deletes the rows. Rows
    older than `consent.backwards_days` stay until they expire. Exit code 1: rows were found, and
    are not deleted.

    Example: `liveprofile privacy consent backwards` or
    `liveprofile privacy consent backwards 42 --delete`

    Options:
    users USER...: User ids. Default: all with a change.
    delete: Delete what is found.
    """
    from liveprofile.feeds.users import read_consents, read_merges
    from liveprofile.privacy.withdrawals import DELTAS, delete_rows, find_rows, read_digests
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    book = read_consents(settings)
    ids = list(dict.fromkeys(users)) if users else sorted(book.users())
    since_ms = round(time.time() * 1_000) - settings.consent.backwards_days * DAY_MS
    found: dict[str, list[StoredRow]] = {}
    used: set[Used] = set()
    starts_ms: list[int] = []
    if delete:
        time.sleep(SETTLE_S)
    with open_session(settings.cassandra) as session, progress() as show:

        def find(user: str) -> tuple[list[StoredRow], list[int], set[bytes]]:
            """The rows that are not allowed, the ends of their windows and what these used."""

            def allowed(purpose: str, start_ms: int, end_ms: int) -> bool:
                return book.allowed_during(user, purpose, start_ms, end_ms)

            rows = find_rows(session, user, allowed, settings.window, since_ms)
            ends_ms = [row.time_ms for row in rows if row.table == DELTAS]
            return rows, ends_ms, read_digests(session, user, ends_ms) if ends_ms else set()

        pool = ThreadPoolExecutor(USERS_AT_ONCE)
        try:
            results = zip(ids, pool.map(find, ids), strict=True)
            for number, (user, (rows, ends_ms, digests)) in enumerate(results, 1):
                show("users", number, len(ids))
                if rows:
                    found[user] = rows
                starts_ms += [end_ms - settings.window.length_ms for end_ms in ends_ms]
                used |= {(user, digest) for digest in digests}
        finally:
            pool.shutdown(cancel_futures=True)
        if delete and found:
            # Rejected first: after a kill in between, the rows still tell which events they used.
            _reject(settings, used, starts_ms, read_merges(settings))
            for rows in found.values():
                delete_rows(session, rows, settings.cassandra.in_flight)
    for user, rows in found.items():
        counts = dict(Counter(row.table for row in rows))
        if json:
            print_json({"user_id": user, "rows": counts, "deleted": delete})
        else:
            verb = "deleted" if delete else "not allowed"
            typer.echo(f"{user}: {len(rows)} rows of {len(counts)} tables {verb}")
    if not found and not json:
        typer.echo(f"consents forbid no row of {len(ids)} users")
    if found and not delete:
        raise typer.Exit(1)


def _reject(
    settings: Settings, used: Collection[Used], starts_ms: list[int], merges: IdentityBook
) -> None:
    """Sends the events of deleted windows to the rejected topic. Raises ServiceError."""
    from liveprofile.kafka import offsets
    from liveprofile.kafka.records import read_topic, send_all
    from liveprofile.kafka.topics import PartitionRange

    if not used:
        return
    topic = settings.topics.events
    # A record arrives at most the allowed skew before its event's time.
    first_ms = min(starts_ms) - settings.limits.max_clock_skew_ms
    starts = offsets.offsets_at(settings, topic, first_ms)
    ranges = {
        number: PartitionRange(max(span.first, starts[number]), span.end)
        for number, span in offsets.partition_ranges(settings, topic).items()
    }
    records = read_topic(settings, topic, ranges)
    send_all(settings, settings.topics.rejected, rejections(records, used, topic, merges))


def rejections(
    records: Iterable[InputRecord],
    used: Collection[Used],
    topic: str,
    merges: IdentityBook,
) -> Iterator[Outgoing]:
    """What the job sends of an event without consent, of each record that was used."""
    from liveprofile.audit.rows import EVENT, parse_event

    for record in records:
        kind, _, digest, user_id = parse_event(record.value)
        if kind == EVENT and any((each, digest) in used for each in merges.ever_merged(user_id)):
            headers = {
                "reason": "NO_CONSENT",
                "detail": "profiling",
                "topic": topic,
                "partition": str(record.partition),
                "offset": str(record.offset),
            }
            yield user_id.encode("utf-8", "surrogatepass"), b"", headers
