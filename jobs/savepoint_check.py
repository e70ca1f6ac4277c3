"""Checks the savepoint or retained checkpoint that a job starts from."""

from __future__ import annotations

from pyflink.java_gateway import get_gateway
from pyflink.table import TableEnvironment

from liveprofile.config import Settings
from liveprofile.errors import ConfigError

_PATH = "execution.state-recovery.path"  # `flink run -s`


def check(t_env: TableEnvironment, settings: Settings) -> None:
    """Raises ConfigError if a job with a changelog starts from another parallelism.

    Such a job would run but not recover from its next failure. Until RocksDB has written a
    checkpoint of its own, the job's checkpoints refer to the files of the savepoint, and Flink 2.2
    deletes a file that two tasks share while one of them still needs it.
    """
    path = t_env.get_config().get(_PATH, "")
    if not path or not settings.job.changelog:
        return
    saved = _parallelism(path)
    if saved != settings.job.parallelism:
        raise ConfigError(
            f"job.changelog: {path} has parallelism {saved}, the job {settings.job.parallelism};"
            f" start at parallelism {saved}, or start once without the changelog"
        )


def _parallelism(path: str) -> int:
    """The highest parallelism of its operators."""
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
    return max(state.getParallelism() for state in metadata.getOperatorStates())
