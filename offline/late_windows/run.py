"""Runs a correction: selects records, runs the job's views over them, and stores the result."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from intake.files.replay import check_sources, open_source
from liveprofile.feeds.users import erasures_spec, follow, read_consents, read_merges
from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.segments import read_segments
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS
from models.profile.model_card import ModelCard
from offline.backfill import run_job
from offline.late_windows.corrector import CorrectionCounts, open_corrector
from offline.late_windows.late_events import (
    ARCHIVE,
    END_OF_TIME_MS,
    RecordSelection,
    choose_late_events,
    read_late_events,
    read_rows,
    write_records,
)

OnStep = Callable[[str], None]


def check(settings: Settings, files: Sequence[Path], mapping: Path | None) -> None:
    """Checks what can be checked before connecting: also the files that are read at the end.

    Raises LiveprofileError.
    """
    check_sources(files, mapping)
    read_rules(product_path(settings.rules))
    read_segments(product_path(settings.segments))
    ModelCard.read(product_path(settings.model.checkpoint))


def run(
    settings: Settings,
    config: Path | None,
    files: Sequence[Path],
    mapping: Path | None,
    on_step: OnStep,
) -> dict[str, int]:
    """Corrects what late events change; returns counts by name. Raises LiveprofileError.

    For the arguments see `liveprofile events recompute-late`; config: the settings' file.
    """
    # Read first: the late topic then has every late event before these offsets.
    ranges = checkpointed_ranges(settings)
    erasures = follow(settings, erasures_spec(settings))
    try:
        on_step(f"reading {settings.topics.late}")
        late = read_late_events(read_topic(settings, settings.topics.late), settings.topics.events)
        merges, consents = read_merges(settings), read_consents(settings)
        table = choose_late_events(
            late,
            settings.window.correction_days * DAY_MS,
            consents,
            erasures.current(),
            round(time.time() * 1_000),
            merges,
        )
        selection = RecordSelection(
            table, settings.window, settings.limits, ranges, merges, consents
        )
        counts = CorrectionCounts()
        if table.used:
            with tempfile.TemporaryDirectory(prefix=".correct-") as name:
                folder = Path(name)
                on_step(f"reading events of {len(table.used):,} users")
                archived = (each for file in files for each in archived_records(file, mapping))
                records = read_topic(settings, settings.topics.events, ranges)
                chosen = selection.select(itertools.chain(archived, records))
                write_records(folder / "records.json", chosen)
                arguments = ["--records", str((folder / "records.json").resolve())]
                run_job(settings, arguments, folder, config, False, on_step)
                on_step("recomputing profiles")
                with open_corrector(
                    settings, lambda user_id: user_id in erasures.current()
                ) as corrector:
                    rows = read_rows(folder / "rows")
                    counts = corrector.correct(rows, table, selection.closed_ms)
    finally:
        erasures.close()
    left_out = {"too_old": table.too_old, "no_consent": table.no_consent, "erased": table.erased}
    return asdict(counts) | left_out


def checkpointed_ranges(settings: Settings) -> dict[int, PartitionRange]:
    """The records of the input topic before the job's last checkpoint.

    What the job does with them is stored. Raises ServiceError.
    """
    topic = settings.topics.events
    committed = offsets.committed_offsets(settings, topic)
    return {
        number: PartitionRange(span.first, max(span.first, min(committed.get(number, 0), span.end)))
        for number, span in offsets.partition_ranges(settings, topic).items()
    }


def archived_records(file: Path, mapping: Path | None) -> Iterator[Record]:
    """The events of a file as records of the partition ARCHIVE. Raises InputError."""
    batches = open_source(file, mapping)
    values = (value for events in batches for value in events.values)
    for number, value in enumerate(values):
        yield Record(file.name, ARCHIVE, number, END_OF_TIME_MS, None, value, {})
