"""Recomputes a window of a user without each of its events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cli.correct.run import archived_records, work_folder
from cli.pipeline.backfill_job_runner import run_job
from liveprofile.config import Settings
from liveprofile.errors import InputError
from liveprofile.events.window import parse_windows
from liveprofile.kafka.records import Record, read_topic
from liveprofile.resources import product_path
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.queries import StoredDelta
from liveprofile.units import DAY_MS
from liveprofile.wire.payload import split_digests
from models.profile.model_card import ModelCard
from udfs.consent_feed import read_consents
from udfs.corrections.chains import events_total, to_batch
from udfs.corrections.files import read_rows, write_records
from udfs.corrections.late_events import (
    LateBook,
    RecordSelection,
    choose_late_events,
    read_late_events,
)
from udfs.profile.deletion import WindowEffects, deletion_effects
from udfs.profile.model_feed import load_checkpoint
from udfs.profile.udf import open_text_encoder

# Sums of float32 in another order: relative to the stored value, or a part of a unit.
LARGEST_DIFFERENCE = 1e-3
NO_LATE_EVENT_DAYS = -1.0


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
    files: Sequence[Path],
    mapping: Path | None,
    on_step: Callable[[str], None],
) -> WindowEffects:
    """The effects of the events of a stored window.

    config: the settings' file. version: of its model. files, mapping: of earlier events. Raises
    InputError if the events or the model of the window are not there any more, and ServiceError.
    """
    if version != delta.model_version:
        raise InputError(
            f"the window was scored by model {delta.model_version}, model.checkpoint is {version}:"
            " set model.checkpoint to the folder of that model"
        )
    on_step(f"reading events of the user from {settings.topics.events}")
    with work_folder(None) as folder:
        book = _late_book(settings, delta)
        selection = RecordSelection(book, settings.window, settings.limits)
        write_records(folder / "records.json", selection.select(_records(settings, files, mapping)))
        arguments = ["--records", str((folder / "records.json").resolve())]
        run_job(settings, arguments, folder, config, False, on_step)
        rows = _until(read_rows(folder / "rows"), delta)
        earlier, row = deque(chain((None, None), rows), maxlen=2)
    check_events(row, delta)
    on_step("scoring the window without each of its events")
    model = load_checkpoint(settings, product_path(settings.model.checkpoint))
    effects = deletion_effects(
        to_batch([row]),
        to_batch([earlier]) if earlier else None,
        model,
        open_text_encoder(settings, model),
    )
    check_values(effects, delta)
    allowed = read_consents(settings).allowed(delta.user_id, "recommendation", delta.window_end_ms)
    return effects if allowed else without_interests(effects)


def _records(settings: Settings, files: Sequence[Path], mapping: Path | None) -> Iterator[Record]:
    for file in files:
        yield from archived_records(file, mapping)
    yield from read_topic(settings, settings.topics.events)


def _late_book(settings: Settings, delta: StoredDelta) -> LateBook:
    """The user's late events: those of a corrected delta are used, others are left out."""
    user_id = delta.user_id
    records = read_topic(settings, settings.topics.late)
    late = [
        event
        for event in read_late_events(records, settings.topics.events)
        if event.user_id == user_id
    ]
    # The job's own delta has none of them.
    days = settings.window.correction_days if delta.revision else NO_LATE_EVENT_DAYS
    now_ms = delta.corrected_at_ms or delta.window_end_ms
    book = choose_late_events(late, days * DAY_MS, read_consents(settings), frozenset(), now_ms)
    book.used.setdefault(user_id, set())
    return book


def _until(rows: Iterator[dict[str, Any]], delta: StoredDelta) -> Iterator[dict[str, Any]]:
    """The user's rows up to the window."""
    return (row for row in rows if row["window_end_ms"] <= delta.window_end_ms)


def check_events(row: Mapping[str, Any] | None, delta: StoredDelta) -> None:
    """Raises InputError if the window's events, or those before it, are not the stored ones."""
    total = round(delta.delta["after"]["events"])
    if row is not None and row["window_end_ms"] == delta.window_end_ms:
        windows, _, _ = parse_windows([row["events"]])
        found = [split_digests(window.digests) for window in windows.rows]
        if found == [split_digests(delta.digests)] and events_total(row) == total:
            return
    raise InputError(
        f"the user's events until the window's end are not the {total} that the job has used:"
        " earlier ones have expired from the input topic (pass archives of them), or the user was"
        " erased or has several ids, or consents have changed"
    )


def check_values(effects: WindowEffects, delta: StoredDelta) -> None:
    """Raises InputError if what was recomputed of the whole window is not what is stored."""
    for name in ("churn", "expected_spend"):
        stored, recomputed = delta.delta["after"][name], getattr(effects.served, name)
        if abs(recomputed - stored) > LARGEST_DIFFERENCE * max(stored, 1.0):
            raise InputError(
                f"{name} is {stored:g} in the stored delta, and {recomputed:g} from the user's"
                " events: the settings of windows or state have changed since, or state has expired"
            )


def without_interests(effects: WindowEffects) -> WindowEffects:
    """What may be shown of a user who does not allow recommendations."""
    return effects._replace(
        served=effects.served._replace(interests={}),
        effects=[each._replace(interests=0.0, moved_interests=[]) for each in effects.effects],
    )
