"""Bytes on disk for each window and each scored event, by table.

The profile operator computes the windows without Flink and stores them; events are stored with
random scores. Then the tables are flushed and compacted, and their files are counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cassandra.cluster import Session

from benchmarks.load.workload import Workload
from benchmarks.support import runs
from liveprofile.resources import ROOT
from liveprofile.rules.rules import read_rules
from liveprofile.segments.segments import read_segments
from liveprofile.settings import Settings, load
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import create_schema
from liveprofile.wire.scored_events import ENTITIES
from models.profile.inference import ProfileModel
from stack.local import Stack
from stack.state import free_ports
from tests.support.local_stack import nodetool
from tests.support.memory.feeds import fixed_feeds
from tests.support.rows.profile_input import batches
from udfs.profile.store import CassandraProfileStore
from udfs.profile.update import ProfileUpdater
from udfs.scoring.store import CassandraScoringStore, ScoredEvent

BATCH_ROWS = 500
SCORES = 50_000
SEED = 7
# By table, what it is counted by.
TABLES = {
    "user_profile": "users",
    "profile_delta": "windows",
    "user_lookalike": "users",
    "user_segment": "users",
    "segment_member": "users",
    "segment_change": "users",
    "risk_score_by_hour": "scores",
    "risk_score_hours": "scores",
}


def profile_updater(
    settings: Settings, model: ProfileModel, sink: CassandraProfileStore
) -> ProfileUpdater:
    """An updater that stores in `sink`."""
    rules, segments = read_rules(ROOT / settings.rules), read_segments(ROOT / settings.segments)
    feeds = fixed_feeds(settings, rules, segments)
    return ProfileUpdater(settings, model, sink, feeds)


@contextmanager
def _started_cassandra(jmx_port: int) -> Iterator[Stack]:
    with runs.temporary_folder(runs.BENCH_ROOT):
        stack = Stack(runs.BENCH_ROOT, commit_log="periodic")
        os.environ["JAVA_TOOL_OPTIONS"] = f"-Dcassandra.jmx.local.port={jmx_port}"
        stack.cassandra.start()
        try:
            yield stack
        finally:
            stack.cassandra.stop()


def bytes_per_window(workload: Workload) -> dict[str, Any]:
    """Bytes by table, for each user, window or score."""
    [port] = free_ports(1)
    with _started_cassandra(port) as stack:
        settings = load(**stack.settings())
        create_schema(settings.cassandra, ProfileModel.load(_checkpoint(settings)).dim)
        with open_session(settings.cassandra) as session:
            counts = _store(settings, session, workload)
        keyspace, folder = settings.cassandra.keyspace, stack.cassandra.folder / "data" / "data"
        for command in ("flush", "compact"):
            nodetool(port, command, keyspace)
        return {
            "counts": counts,
            "bytes": {
                name: round(files_bytes(folder / keyspace, name) / counts[of], 1)
                for name, of in TABLES.items()
            },
        }


def files_bytes(keyspace_folder: Path, table: str) -> int:
    """The size of a table's SSTables, all their files; nothing of snapshots."""
    folders = keyspace_folder.glob(f"{table}-*")
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*-*.*"))


def _checkpoint(settings: Settings) -> Path:
    return ROOT / settings.model.checkpoint


def _store(settings: Settings, session: Session, workload: Workload) -> dict[str, int]:
    """Stores windows and scores; returns the numbers of windows, users and scores."""
    model = ProfileModel.load(_checkpoint(settings))
    windows, users = 0, set()
    runs.log_progress(f"storing the windows of {workload.n} events")
    with closing(CassandraProfileStore(settings.cassandra, model.dim, session)) as sink:
        updater = profile_updater(settings, model, sink)
        for batch in batches(workload.messages(), settings, BATCH_ROWS):
            updater.update(batch)
            windows += len(batch.user_id)
            users.update(batch.user_id)
    runs.log_progress("storing scores")
    scores = 0
    ttl_s = settings.scoring.score_ttl_s
    with closing(CassandraScoringStore(settings.cassandra, ttl_s, session)) as sink:
        for rows in scored_events(workload):
            sink.writer.write(rows)
            sink.writer.flush()
            scores += len(rows)
    return {"windows": windows, "users": len(users), "scores": scores}


def scored_events(workload: Workload, count: int = SCORES) -> Iterator[list[ScoredEvent]]:
    """The first events of the workload with random scores; of one in a hundred a rule is true."""
    rng, part = np.random.default_rng(SEED), []
    for number, message in enumerate(workload.messages()):
        if number == count:
            break
        event = json.loads(message.value)
        part.append(
            ScoredEvent(
                user_id=event["user_id"],
                event_id=event["event_id"],
                event_ms=event["event_time"],
                event_type=event["event_type"],
                amount=event.get("price", 0.0) * event.get("quantity", 1),
                score=float(rng.beta(0.5, 20)),
                model_version="event-risk",
                rules_version="0123456789ab",
                active_rules=["purchase_velocity"] if rng.random() < 0.01 else [],
                entities=tuple(str(event.get(name) or "") for name in ENTITIES),
                flags=[],
            )
        )
        if len(part) == BATCH_ROWS:
            yield part
            part = []
    if part:
        yield part
