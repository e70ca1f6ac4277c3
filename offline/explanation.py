"""Computes which events of a window moved a user's profile.

A record of an event is not older than the event by more than limits.max_clock_skew_ms, or the event
was rejected. There is no such bound at the other end: replayed events have records of today. So the
user's partition is read up to the close of the window, and all records only if it does not have the
events that the job has used. The job's views then prove that they are the right ones.
"""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from liveprofile.consent.changes import ConsentTable
from liveprofile.errors import InputError
from liveprofile.events.window import parse_windows
from liveprofile.feeds.users import read_consents, read_erasures
from liveprofile.kafka import offsets
from liveprofile.kafka.partitioner import partition_of
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.queries import StoredDelta
from liveprofile.units import DAY_MS
from liveprofile.wire.window_events import split_digests
from models.profile.model_card import ModelCard
from offline.backfill import run_job
from offline.late_windows.chains import events_total, to_batch
from offline.late_windows.late_events import (
    LateTable,
    RecordSelection,
    choose_late_events,
    read_late_events,
    read_rows,
    write_records,
)
from offline.occlusion import WindowEffects, occlusion_effects
from udfs.profile.model_feed import load_checkpoint
from udfs.profile.udf import open_text_encoder


def as_document(effects: WindowEffects, delta: StoredDelta) -> dict[str, Any]:
    """All events of a stored window in order of time, with their effects (docs/reading.md)."""
    before = delta.delta.get("before") or {}
    return {
        "user_id": delta.user_id,
        "window_start_ms": delta.window_start_ms,
        "window_end_ms": delta.window_end_ms,
        "model_version": delta.model_version,
        "events": effects.events,
        "before": {name: before.get(name) for name in ("churn", "expected_spend")},
        "stored": effects.served._asdict(),
        "effects": [effect._asdict() for effect in effects.effects],
    }


# Sums of float32 in another order: relative to the stored value, or a part of a unit.
LARGEST_DIFFERENCE = 1e-3


def model_version(settings: Settings) -> str:
    """The version of the model in the settings. Raises InputError."""
    return ModelCard.read(product_path(settings.model.checkpoint)).version


def stored_delta(settings: Settings, user_id: str, until_ms: int | None) -> StoredDelta | None:
    """The delta of the last window that ended by then. Raises ServiceError."""
    with open_session(settings.cassandra) as session:
        return next(iter(queries.deltas(session, user_id, 1, until_ms)), None)


def explain(
    settings: Settings,
    config: Path | None,
    version: str,
    delta: StoredDelta,
    on_step: Callable[[str], None],
) -> WindowEffects:
    """The effects of the events of a stored window.

    config: the settings' file. version: of its model. Raises InputError if the user does
    not allow profiles or was erased, or if the events or the model of the window are not there any
    more, and ServiceError.
    """
    if version != delta.model_version:
        raise InputError(
            f"the window was scored by model {delta.model_version}, model.checkpoint is {version}:"
            " set model.checkpoint to the folder of that model"
        )
    consents = read_consents(settings)
    check_permission(consents, read_erasures(settings), delta, round(time.time() * 1_000))
    table = _late_table(settings, consents, delta)
    with tempfile.TemporaryDirectory(prefix=".explain-") as name:
        folder = Path(name)
        for ranges in _searches(settings, delta):
            on_step(f"reading events of the user from {settings.topics.events}")
            records = read_topic(settings, settings.topics.events, ranges)
            selection = RecordSelection(table, settings.window, settings.limits)
            chosen = selection.select(filter(may_be_of_user(delta.user_id), records))
            if write_records(folder / "records.json", chosen) >= _events(delta):
                earlier, row = _last_rows(settings, config, folder, delta, on_step)
                if has_stored_events(row, delta):
                    break
        else:
            raise InputError(
                f"the user's events until the window's end are not the {_events(delta)} that the"
                " job has used: earlier ones have expired from the input topic, or the user was"
                " erased or has several ids, or consents have changed"
            )
        on_step("scoring the window without each of its events")
        model = load_checkpoint(settings, product_path(settings.model.checkpoint))
        effects = occlusion_effects(
            to_batch([row]),
            to_batch([earlier]) if earlier else None,
            model,
            open_text_encoder(settings),
        )
    check_values(effects, delta)
    allowed = consents.allowed(delta.user_id, "recommendation", delta.window_end_ms)
    return effects if allowed else without_interests(effects)


def check_permission(
    consents: ConsentTable, erasures: ErasureTable, delta: StoredDelta, now_ms: int
) -> None:
    """Raises InputError for a window of a user who does not allow it, or was erased."""
    if erasures.is_erased(delta.user_id, delta.window_start_ms):
        raise InputError("the user was erased after this window began")
    if not consents.allowed(delta.user_id, "profiling", now_ms):
        raise InputError("the user does not allow profiling")


def may_be_of_user(user_id: str) -> Callable[[Record], bool]:
    """Whether a record can be an event of the user, without parsing it.

    A JSON text has an id as it is, or with escapes. No record of this user fails.
    """
    plain = user_id.encode("utf-8", "surrogatepass")
    return lambda record: (
        record.value is not None and (plain in record.value or b"\\" in record.value)
    )


def _searches(settings: Settings, delta: StoredDelta) -> Iterator[dict[int, PartitionRange]]:
    """The records to read: the user's partition up to the close of the window, then all."""
    topic, skew_ms = settings.topics.events, settings.limits.max_clock_skew_ms
    ranges = offsets.partition_ranges(settings, topic)
    own = partition_of(delta.user_id.encode("utf-8", "surrogatepass"), len(ranges))
    first, last = ranges[own]
    closed_ms = delta.window_end_ms + settings.window.out_of_orderness_ms + skew_ms
    end = offsets.offsets_at(settings, topic, closed_ms).get(own, last)
    yield {own: PartitionRange(first, max(first, min(end, last)))}
    yield ranges


def _last_rows(
    settings: Settings,
    config: Path | None,
    folder: Path,
    delta: StoredDelta,
    on_step: Callable[[str], None],
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The rows of the window before, and of the window, from the records in the folder."""
    shutil.rmtree(folder / "rows", ignore_errors=True)
    arguments = ["--records", str((folder / "records.json").resolve())]
    run_job(settings, arguments, folder, config, False, on_step)
    rows = (
        row for row in read_rows(folder / "rows") if row["window_end_ms"] <= delta.window_end_ms
    )
    earlier, row = deque(chain((None, None), rows), maxlen=2)
    return earlier, row


def _late_table(settings: Settings, consents: ConsentTable, delta: StoredDelta) -> LateTable:
    """The user's late events: those of a corrected delta are used, others are left out."""
    user_id = delta.user_id
    records = filter(may_be_of_user(user_id), read_topic(settings, settings.topics.late))
    late = [
        event
        for event in read_late_events(records, settings.topics.events)
        if event.user_id == user_id
    ]
    # The job's own delta has none of them: each is too old.
    days = settings.window.correction_days if delta.revision else -1
    now_ms = delta.corrected_at_ms or delta.window_end_ms
    table = choose_late_events(late, days * DAY_MS, consents, frozenset(), now_ms)
    table.used.setdefault(user_id, set())
    return table


def has_stored_events(row: Mapping[str, Any] | None, delta: StoredDelta) -> bool:
    """Whether the window's events, and the number of those before it, are the stored ones."""
    if row is None or row["window_end_ms"] != delta.window_end_ms:
        return False
    windows, _, _ = parse_windows([row["events"]])
    found = [split_digests(window.digests) for window in windows.rows]
    return found == [split_digests(delta.digests)] and events_total(row) == _events(delta)


def _events(delta: StoredDelta) -> int:
    return round(delta.delta["after"]["events"])


def check_values(effects: WindowEffects, delta: StoredDelta) -> None:
    """Raises InputError if the recomputed values of the window are not the stored ones."""
    for name in ("churn", "expected_spend"):
        stored, recomputed = delta.delta["after"][name], getattr(effects.served, name)
        if abs(recomputed - stored) > LARGEST_DIFFERENCE * max(stored, 1.0):
            raise InputError(
                f"{name} is {stored:g} in the stored delta, and {recomputed:g} from the user's"
                " events: the settings of windows or state have changed since, or state has"
                " expired",
            )


def without_interests(effects: WindowEffects) -> WindowEffects:
    """What may be shown of a user who does not allow recommendations."""
    return effects._replace(
        served=effects.served._replace(interests={}),
        effects=[each._replace(interests=0.0, moved_interests=[]) for each in effects.effects],
    )
