"""What a savepoint of the job depends on: the ids of its nodes, and the settings behind its state.

Flink finds the state of an operator by the id and the type of its node. The planner numbers nodes
one by one, so that a step without state (such as that of `merges.enabled`) would change the ids of
all nodes after it. NODE_IDS gives nodes with state ids of their own.

A job over an archive (`--bootstrap`) has other ids for its sources of events. So the job that
continues from its savepoint restores all state but the offsets of the archive's topic. The source
of labels reads the same topic in both jobs and keeps its id.

State means what the settings say that it was computed with. With other settings, Flink would
restore windows of another length. So the job writes these settings into the name of an operator of
each pipeline, which every checkpoint contains. A job of one pipeline restores its part of a
savepoint of both.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyflink.java_gateway import get_gateway
from pyflink.table import TableEnvironment

from jobs.compiled_plan import FIRST_STATELESS_ID, NodeId
from liveprofile.errors import ConfigError
from liveprofile.flink.jobs import PIPELINES, Job, Pipeline
from liveprofile.settings import Settings
from liveprofile.wire.scored_events import ENTITIES

_OVER = "stream-exec-over-aggregate"
_SCAN = "stream-exec-table-source-scan"
_SINK = "stream-exec-sink"
# The planner names computed keys by their position, such as $10.
PARTITION_CLOCK = "partitionBy=[$"
WINDOW_COUNT = "partitionBy=[user_id, $"
HISTORY = "LAST_JOINED(this_window"
LISTS = (
    "partitionBy=[user_id], orderBy=[arrival ASC]",
    *(f"partitionBy=[{name}_key]" for name in (*ENTITIES, "task")),
)

NODE_IDS = (
    NodeId(1, _SCAN, "default_database, source"),
    NodeId(2, _OVER, PARTITION_CLOCK),
    NodeId(3, "stream-exec-deduplicate"),
    NodeId(4, _OVER, WINDOW_COUNT),
    NodeId(5, "stream-exec-local-window-aggregate"),
    NodeId(6, "stream-exec-global-window-aggregate"),
    NodeId(7, _OVER, HISTORY),
    NodeId(8, _SINK, "default_database.sink]"),
    NodeId(21, _SCAN, "default_database, label_source"),
    NodeId(22, _SCAN, "default_database, scoring_source"),
    NodeId(23, _SINK, "default_database.scoring_sink]"),
    *(NodeId(number, _OVER, of_list) for number, of_list in enumerate(LISTS, 24)),
)
_ARCHIVE_SOURCES = {1: 41, 22: 42}
ARCHIVE_SOURCE_IDS = frozenset(_ARCHIVE_SOURCES.values())
ARCHIVE_NODE_IDS = tuple(
    known._replace(id=_ARCHIVE_SOURCES.get(known.id, known.id)) for known in NODE_IDS
)

_PATH = "execution.state-recovery.path"  # `flink run -s`
_IGNORE_STATE_WITHOUT_NODE = "execution.state-recovery.ignore-unclaimed-state"
_NODE_OF_UID = re.compile(r"(?:^|: )(\d+)_")
STATE_SETTINGS: dict[Pipeline, tuple[str, ...]] = {
    "profile": ("window.length_ms", "window.stagger_ms", "state.decay_days"),
    "scoring": (),
}
_NAME = re.compile(r"(\w+): ({.*})")  # pipeline and settings
StateSettings = Mapping[str, Mapping[str, Any]]  # by pipeline


class SavedJob(NamedTuple):
    parallelism: int  # the highest of its operators
    state_settings: StateSettings
    uids: tuple[str, ...]  # of its operators, such as "1_source" and "Sink Committer: 11_sink"


def operator_name(pipeline: Pipeline, settings: Settings) -> str:
    """The name of the operator that carries the settings which shape state."""
    return f"{pipeline}: {json.dumps(_state_settings(pipeline, settings))}"


def read_state_settings(operator_names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The settings that shape the state of a job with these operators, by pipeline."""
    found = map(_NAME.fullmatch, operator_names)
    return {name[1]: json.loads(name[2]) for name in found if name}


def check(t_env: TableEnvironment, job: Job) -> bool:
    """Checks the savepoint that the job starts from, if any. Raises ConfigError.

    Returns whether it is of a job over an archive. The job then ignores the offsets in it.
    """
    path = t_env.get_config().get(_PATH, "")
    if not path:
        return False
    saved = _read(path)
    check_state_settings(path, saved.state_settings, job)
    if job.settings.job.changelog:
        _check_parallelism(path, saved.parallelism, job.settings)
    is_archive = is_of_archive(saved.uids)
    if is_archive or not all(map(job.has, saved.state_settings)):
        check_nodes(path, saved.uids)
        t_env.get_config().set(_IGNORE_STATE_WITHOUT_NODE, "true")
    return is_archive


def is_of_archive(uids: Iterable[str]) -> bool:
    """Whether a savepoint with these operators is of a job over an archive."""
    return not ARCHIVE_SOURCE_IDS.isdisjoint(map(_node_id, uids))


def check_nodes(path: str, uids: Iterable[str]) -> None:
    """Checks a savepoint of which Flink may ignore a part.

    Raises ConfigError if no job has nodes for some state: Flink would ignore that state too.
    """
    known = ARCHIVE_SOURCE_IDS | {node.id for node in NODE_IDS}
    unknown = []
    for uid in uids:
        node = _node_id(uid)
        if node not in known and node < FIRST_STATELESS_ID:
            unknown.append(uid)
    if unknown:
        raise ConfigError(
            f"this version of the job has no operators for the state of {', '.join(unknown)} in"
            f" {path}: submit it with the version that made it, or repeat `liveprofile events"
            " bootstrap`"
        )


def _node_id(uid: str) -> int:
    """The id of the operator's node; -1 if the operator is of no node."""
    found = _NODE_OF_UID.search(uid)
    return int(found[1]) if found else -1


def check_state_settings(path: str, saved: StateSettings, job: Job) -> None:
    """Raises ConfigError if a setting that shapes state differs from that of the saved job, or if
    that job had no such pipeline.
    """
    if not saved:
        raise ConfigError(f"{path} is no savepoint of this job: start without a savepoint")
    anew = (
        "start without a savepoint under a new job.name, kafka.group_id and cassandra.keyspace and"
        " let the job read the topic again"
    )
    for pipeline in filter(job.has, PIPELINES):
        if (of_saved := saved.get(pipeline)) is None:
            had = ", ".join(saved)
            raise ConfigError(f"{path} has the state of {had}, not of {pipeline}: {anew}")
        for name, value in _state_settings(pipeline, job.settings).items():
            if (before := of_saved.get(name)) != value:
                raise ConfigError(
                    f"setting {name} = {value}: the state in {path} was computed with {before}."
                    f" Set it to {before}, or {anew}"
                )


def _state_settings(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    keys = {name: name.split(".") for name in STATE_SETTINGS[pipeline]}
    return {name: getattr(getattr(settings, section), key) for name, (section, key) in keys.items()}


def _check_parallelism(path: str, saved: int, settings: Settings) -> None:
    """Raises ConfigError if a job with a changelog starts from another parallelism.

    Such a job would run but not recover from its next failure. Until RocksDB has written a
    checkpoint of its own, the job's checkpoints refer to the files of the savepoint, and Flink 2.2
    deletes a file that two tasks share while one of them still needs it.
    """
    if saved != settings.job.parallelism:
        raise ConfigError(
            f"job.changelog: {path} has parallelism {saved}, the job {settings.job.parallelism};"
            f" start at parallelism {saved}, or start once without the changelog"
        )


def _read(path: str) -> SavedJob:
    jvm = get_gateway().jvm
    runtime = jvm.org.apache.flink.runtime
    storage = runtime.state.filesystem.AbstractFsCheckpointStorageAccess
    handle = storage.resolveCheckpointPointer(path).getMetadataHandle()
    stream = jvm.java.io.DataInputStream(handle.openInputStream())
    try:
        loader = jvm.Thread.currentThread().getContextClassLoader()
        metadata = runtime.checkpoint.Checkpoints.loadCheckpointMetadata(stream, loader, path)
    finally:
        stream.close()
    operators = list(metadata.getOperatorStates())
    names = (operator.getOperatorName().orElse("") for operator in operators)
    return SavedJob(
        max(operator.getParallelism() for operator in operators),
        read_state_settings(names),
        tuple(operator.getOperatorUid().orElse("") for operator in operators),
    )
