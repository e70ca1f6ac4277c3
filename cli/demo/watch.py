"""Sends the demo's purchases, and watches meanwhile how the job processes them."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import orjson
from cassandra.cluster import Session
from rich.console import Console

from cli.demo.scene import MAPPING, Purchases
from intake.files.replay import replay
from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.flink import rest
from liveprofile.kafka import offsets
from liveprofile.settings import Settings
from liveprofile.storage.cql import execute

STALL_S = 240.0  # the demo fails if no event is read or stored for so long; busy machines are slow
LOOK_EVERY_S = 0.7
PRINT_EVERY_S = 5.0
QUERY = (
    "SELECT to_unix_timestamp(window_end) AS window_end_ms, events_total, profile FROM user_profile"
)


class Snapshot(NamedTuple):
    read: int  # records covered by the job's last checkpoint, heartbeats included
    used: int  # events in stored profiles
    profiles: int  # stored, one for each user and window
    closed_ms: int | None  # the latest window end with a stored profile
    alerts: int


def read_snapshot(session: Session, settings: Settings) -> Snapshot:
    """Reads one row for each user: the demo has few users and many windows."""
    # Offsets first: what a checkpoint covers is stored and sent, so the later reads see it.
    read = sum(offsets.committed_offsets(settings, settings.topics.events).values())
    rows = list(execute(session, QUERY))
    alerts = offsets.partition_ranges(settings, settings.topics.alerts).values()
    return Snapshot(
        read=read,
        used=sum(row.events_total for row in rows),
        profiles=sum(int(orjson.loads(row.profile)["features"]["windows"]) for row in rows),
        closed_ms=max((row.window_end_ms for row in rows), default=None),
        alerts=sum(span.end - span.first for span in alerts),
    )


def send_and_watch(
    console: Console,
    session: Session,
    settings: Settings,
    purchases: Purchases,
    job_id: str,
) -> Snapshot:
    """Returns when every sent event is in a stored profile. Raises ServiceError."""
    snapshot, sent = Snapshot(0, 0, 0, None, 0), 0

    def count(events: int) -> None:
        nonlocal sent
        sent += events

    started_s = moved_s = time.monotonic()
    printed_s, before = 0.0, (0, 0)
    with ThreadPoolExecutor(1) as pool, console.status("replaying") as status:
        sending = pool.submit(
            replay, purchases.file, MAPPING, settings, close_windows=True, progress=count
        )
        while True:
            with suppress(ServiceUnavailableError):  # then it is the last one
                snapshot = read_snapshot(session, settings)
            now_s, is_done = time.monotonic(), False
            if sending.done():
                everything = sent + sending.result().heartbeats
                is_done = snapshot.used >= sent and snapshot.read >= everything
            line = progress_line(snapshot, sent, now_s - started_s)
            status.update(line)  # seen on a terminal only
            if is_done or (not console.is_terminal and now_s - printed_s >= PRINT_EVERY_S):
                console.print(line, soft_wrap=True)
                printed_s = now_s
            if is_done:
                return snapshot
            if (snapshot.read, snapshot.used) != before:
                moved_s, before = now_s, (snapshot.read, snapshot.used)
            _check_job(settings, job_id, now_s - moved_s, sent - snapshot.used)
            time.sleep(LOOK_EVERY_S)


def _check_job(settings: Settings, job_id: str, still_s: float, missing: int) -> None:
    rest_url = settings.flink.rest_url
    try:
        state = rest.job_state(rest_url, job_id)
    except ServiceUnavailableError:
        if still_s > STALL_S:
            raise
        return
    if state in rest.TERMINAL_STATES or still_s > STALL_S:
        why = (rest.root_exception(rest_url, job_id).splitlines() or ["no failure is reported"])[0]
        raise ServiceError(
            f"{missing} purchases are in no profile, nothing moved for {still_s:.0f} s, and the job"
            f" is {state}: {why}"
        )


def progress_line(snapshot: Snapshot, sent: int, seconds: float) -> str:
    closed = f", days closed up to {last_day(snapshot.closed_ms)}" if snapshot.closed_ms else ""
    return (
        f"  {seconds:4.0f} s  {sent:,} sent, {min(snapshot.read, sent):,} read,"
        f" {snapshot.used:,} in {snapshot.profiles:,} profiles, {snapshot.alerts} alerts{closed}"
    )


def last_day(window_end_ms: int) -> str:
    """The day (UTC) of a window that ends at midnight, such as 2017-11-26."""
    return datetime.fromtimestamp((window_end_ms - 1) / 1_000, UTC).strftime("%Y-%m-%d")
