"""Bytes on disk for each window and each scored event, by table and compression.

The profile operator computes the windows without Flink and stores them; events are stored with
random scores. Then the tables are flushed and compacted, and their files are counted. For each
compression the files are written again from the same rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from benchmarks.load.rows import batches
from benchmarks.load.workload import Workload
from benchmarks.support import runs
from benchmarks.support.updater import profile_updater
from liveprofile.resources import ROOT
from liveprofile.settings import Settings, load
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import create_schema
from liveprofile.wire.scored_events import ENTITIES
from models.profile.inference import ProfileModel
from stack.cassandra import CassandraNode, nodetool
from stack.local import Stack
from stack.state import free_ports
from udfs.profile.sink import CassandraProfileSink
from udfs.scoring.sink import CassandraScoringSink, ScoredEvent

BATCH_ROWS = 500
SCORES = 50_000
READS = 300
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
COMPRESSED = ("profile_delta", "risk_score_by_hour", "user_profile")


class Compression(NamedTuple):
    """An option of a table."""

    compressor: str
    chunk_kb: int

    @property
    def cql(self) -> str:
        return f"{{'class': '{self.compressor}', 'chunk_length_in_kb': {self.chunk_kb}}}"


DEFAULT = Compression("LZ4Compressor", 16)  # Cassandra's
COMPRESSIONS = (
    DEFAULT,
    Compression("LZ4Compressor", 64),
    Compression("ZstdCompressor", 16),
    Compression("ZstdCompressor", 64),
    Compression("ZstdCompressor", 256),
)


def bytes_per_window(root: Path, workload: Workload) -> dict[str, Any]:
    """Bytes by table as the schema says, and of the largest ones by compression.

    A compression has seconds to write the files again and ms of a read of a user's 20 last deltas.
    """
    with _node(root) as (node, settings, port), open_session(settings.cassandra) as session:
        counts = _store(settings, session, workload)
        keyspace, folder = settings.cassandra.keyspace, node.folder / "data" / "data"

        def size(table: str) -> int:
            return files_bytes(folder / keyspace, table)

        for command in ("flush", "compact"):
            nodetool(port, command, keyspace)
        tables = {name: round(size(name) / counts[of], 1) for name, of in TABLES.items()}
        compressions = []
        for each in COMPRESSIONS:
            runs.log_progress(f"{each.compressor}, chunks of {each.chunk_kb} KiB")
            result: dict[str, Any] = {"compression": each.compressor, "chunk_kb": each.chunk_kb}
            for table in COMPRESSED:
                session.execute(f"ALTER TABLE {table} WITH compression = {each.cql}", timeout=60)
                start_s = time.monotonic()
                nodetool(port, "upgradesstables", "-a", keyspace, table)
                result[table] = round(size(table) / counts[TABLES[table]], 1)
                result[f"{table}_s"] = round(time.monotonic() - start_s, 1)
            compressions.append(result | _reads(session))
    return {"counts": counts, "bytes": tables, "compressions": compressions}


def files_bytes(keyspace_folder: Path, table: str) -> int:
    """The size of a table's SSTables, all their files; nothing of snapshots."""
    folders = keyspace_folder.glob(f"{table}-*")
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*-*.*"))


@contextmanager
def _node(root: Path) -> Iterator[tuple[CassandraNode, Settings, int]]:
    """Starts Cassandra without the other services, with tables."""
    with runs.temporary_folder(root):
        stack, [port] = Stack(root, commit_log="periodic"), free_ports(1)
        stack.cassandra.jmx_port = port
        stack.cassandra.start()
        try:
            settings = load(**stack.settings())
            create_schema(settings.cassandra, ProfileModel.load(_checkpoint(settings)).dim)
            yield stack.cassandra, settings, port
        finally:
            stack.cassandra.stop()


def _checkpoint(settings: Settings) -> Path:
    return ROOT / settings.model.checkpoint


def _store(settings: Settings, session: Session, workload: Workload) -> dict[str, int]:
    """Stores windows and scores; returns the numbers of windows, users and scores."""
    model = ProfileModel.load(_checkpoint(settings))
    windows, users = 0, set()
    runs.log_progress(f"storing the windows of {workload.n} events")
    with closing(CassandraProfileSink(settings.cassandra, model.dim, session)) as sink:
        updater = profile_updater(settings, model, sink)
        for batch in batches(workload.messages(), settings, BATCH_ROWS):
            updater.update(batch)
            windows += len(batch.user_id)
            users.update(batch.user_id)
    runs.log_progress("storing scores")
    scores = 0
    ttl_s = settings.scoring.score_ttl_s
    with closing(CassandraScoringSink(settings.cassandra, ttl_s, session)) as sink:
        for rows in scored_events(workload):
            sink.write(rows)
            sink.flush()
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


def _reads(session: Session) -> dict[str, float]:
    """Percentiles of the time to read the 20 last deltas of users, who are the same each time."""
    rows = session.execute(f"SELECT user_id FROM user_profile LIMIT {READS}").all()
    times_ms = []
    for row in rows:
        start_s = time.perf_counter()
        queries.deltas(session, row.user_id)
        times_ms.append((time.perf_counter() - start_s) * 1_000)
    return dict(zip(("read_ms_p50", "read_ms_p99"), _percentiles(times_ms), strict=True))


def _percentiles(values: Sequence[float]) -> list[float]:
    return np.round(np.percentile(values, [50, 99]), 2).tolist()
