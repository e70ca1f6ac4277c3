"""Checks the savepoint or retained checkpoint that a job starts from.

State means what the settings say that it was computed with. With other settings, Flink would
restore windows of another length, or lists that are longer than the setting and then grow for ever.
So the job writes these settings into the name of an operator, which every checkpoint contains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyflink.java_gateway import get_gateway
from pyflink.table import TableEnvironment

from jobs.compiled_plan import FIRST_STATELESS_ID
from jobs.node_ids import BOOTSTRAP_SOURCE_IDS, NODE_IDS
from liveprofile.errors import ConfigError
from liveprofile.settings import Settings

_PATH = "execution.state-recovery.path"  # `flink run -s`
_IGNORE_STATE_WITHOUT_NODE = "execution.state-recovery.ignore-unclaimed-state"
_NODE_OF_UID = re.compile(r"(?:^|: )(\d+)_")
STATE_SETTINGS = (
    "window.length_ms",
    "window.stagger_ms",
    "window.history",
    "state.decay_days",
    "scoring.enabled",
    "scoring.history",
)
NAME_PREFIX = "Deduplicate "  # the settings follow as JSON


class SavedJob(NamedTuple):
    parallelism: int  # the highest of its operators
    state_settings: dict[str, Any]  # {} for a job of version 0.1.0
    uids: tuple[str, ...]  # of its operators, such as "1_source" and "Sink Committer: 26_sink"


def operator_name(settings: Settings) -> str:
    """The name of the operator that carries the settings which shape state."""
    return NAME_PREFIX + json.dumps(_state_settings(settings))


def check(t_env: TableEnvironment, settings: Settings) -> bool:
    """Checks the savepoint that the job starts from, if any. Raises ConfigError.

    Returns whether it is of a job over an archive. The job then ignores the offsets in it.
    """
    path = t_env.get_config().get(_PATH, "")
    if not path:
        return False
    saved = _read(path)
    check_state_settings(path, saved.state_settings, settings)
    if settings.job.changelog:
        _check_parallelism(path, saved.parallelism, settings)
    if not is_of_archive(path, saved.uids):
        return False
    t_env.get_config().set(_IGNORE_STATE_WITHOUT_NODE, "true")
    return True


def is_of_archive(path: str, uids: Iterable[str]) -> bool:
    """Whether a savepoint with these operators is of a job over an archive.

    Raises ConfigError if the job has no node for other state than the offsets in the archive's
    topic: Flink would ignore that state too.
    """
    saved = {uid: _node_id(uid) for uid in uids}
    if BOOTSTRAP_SOURCE_IDS.isdisjoint(saved.values()):
        return False
    known = BOOTSTRAP_SOURCE_IDS | {node.id for node in NODE_IDS}
    unknown = [
        uid for uid, node in saved.items() if node not in known and node < FIRST_STATELESS_ID
    ]
    if unknown:
        raise ConfigError(
            f"this version of the job has no operators for the state of {', '.join(unknown)} in"
            f" {path}: submit it with the version that made it, or repeat `liveprofile events"
            " bootstrap`"
        )
    return True


def _node_id(uid: str) -> int:
    """The id of the operator's node; -1 if the operator is of no node."""
    found = _NODE_OF_UID.search(uid)
    return int(found[1]) if found else -1


def check_state_settings(path: str, saved: Mapping[str, Any], settings: Settings) -> None:
    """Raises ConfigError if a setting that shapes state differs from that of the saved job.

    saved: the settings of the saved job; one that it lacks is not checked.
    """
    for name, value in _state_settings(settings).items():
        if saved.get(name, value) != value:
            raise ConfigError(
                f"setting {name} = {value}: the state in {path} was computed with {saved[name]}."
                f" Set it to {saved[name]}, or start without a savepoint under a new job.name,"
                " kafka.group_id and cassandra.keyspace and let the job read the topic again"
            )


def _state_settings(settings: Settings) -> dict[str, Any]:
    keys = {name: name.split(".") for name in STATE_SETTINGS}
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
    settings = [name for name in names if name.startswith(NAME_PREFIX)]
    return SavedJob(
        max(operator.getParallelism() for operator in operators),
        json.loads(settings[0].removeprefix(NAME_PREFIX)) if settings else {},
        tuple(operator.getOperatorUid().orElse("") for operator in operators),
    )
