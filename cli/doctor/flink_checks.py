"""Checks of the Flink cluster. Each yields what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Iterator

from cli.doctor.check import MAX_SKEW_MS, Check, Problem, parse_bytes, skew
from cli.doctor.facts import Facts
from liveprofile.settings import Settings

METASPACE_BYTES = 512 << 20
FULL_METASPACE = 0.8
# The JobManager tells the time of the last heartbeat, so it seems behind by its interval.
MAX_FLINK_BEHIND_MS = 60_000
MERGE_OPTION = "state.backend.rocksdb.compaction.filter.periodic-compaction-time"


def flink_reachable(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.flink.error:
        yield Problem(facts.flink.error, "start the JobManager, or correct flink.rest_url")


def flink_version(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if not facts.flink.version.startswith("2.2"):
        yield Problem(
            f"the cluster runs Flink {facts.flink.version}, the job is built for 2.2",
            "use a cluster of Flink 2.2",
        )


def slots(facts: Facts, settings: Settings) -> Iterator[Problem]:
    flink, needed = facts.flink, settings.job.parallelism
    if not flink.task_managers:
        yield Problem("no TaskManager is registered", "start one; its log says why it is not")
    elif settings.job.name not in flink.jobs and flink.slots_free < needed:
        yield Problem(
            f"{flink.slots_free} of {flink.slots} slots are free, job.parallelism is {needed}",
            "add TaskManagers, stop other jobs, or lower job.parallelism",
        )
    if flink.jobs.count(settings.job.name) > 1:
        yield Problem(
            f"{flink.jobs.count(settings.job.name)} jobs named {settings.job.name} run and write"
            " the same rows",
            "`liveprofile job cancel --job ID` ends one",
        )


def gpu_slots(facts: Facts, settings: Settings) -> Iterator[Problem]:
    flink, option = facts.flink, "taskmanager.numberOfTaskSlots"
    resources = flink.config.get("external-resources", "").replace(",", ";").split(";")
    has_gpu = "gpu" in (name.strip() for name in resources) and settings.model.device != "cpu"
    if has_gpu and flink.slots > flink.task_managers > 0:
        yield Problem(
            f"{flink.task_managers} TaskManagers with a GPU have {flink.slots} slots: each slot's"
            " Python worker has a CUDA context and a model of its own on the GPU",
            f"set {option}: 1, as flink-conf/config.gpu.yaml does, and job.parallelism to the"
            " number of GPUs",
        )


def metaspace(facts: Facts, settings: Settings) -> Iterator[Problem]:
    option = "taskmanager.memory.jvm-metaspace.size"
    limit = parse_bytes(facts.flink.config.get(option, "256m"))
    if limit is not None and limit < METASPACE_BYTES:
        yield Problem(
            f"{option} is {facts.flink.config.get(option, '256m')}: each restart of the job leaves"
            " classes there",
            f"set {option}: 512m, and install the jars in lib/",
        )
    share = facts.flink.metaspace_share
    if share is not None and share > FULL_METASPACE:
        yield Problem(
            f"the metaspace of a TaskManager is {share:.0%} full, and it will fail soon",
            f"restart the TaskManager; install the jars in lib/, or raise {option}",
        )


def flink_options(facts: Facts, settings: Settings) -> Iterator[Problem]:
    config = facts.flink.config
    if config.get("pipeline.jars"):
        yield Problem(
            "pipeline.jars is set, which removes flink-python from the job's jars",
            "remove it and install the jars in lib/",
        )
    if settings.job.changelog and config.get("state.changelog.storage") != "filesystem":
        yield Problem(
            "job.changelog needs state.changelog.storage: filesystem",
            "set it with state.changelog.dstl.dfs.base-path, as flink-conf/config.yaml does",
        )
    if MERGE_OPTION not in config:
        yield Problem(
            "the ids of events stay in savepoints for up to 30 days after their time to live",
            f"set {MERGE_OPTION}: 1 d, as flink-conf/config.yaml does",
        )


def checkpoints(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if not (settings.job.checkpoint_dir or facts.flink.config.get("execution.checkpointing.dir")):
        yield Problem(
            "no checkpoint folder: Flink keeps at most 5 MB in the JobManager's memory, and the"
            " job restarts forever",
            "set execution.checkpointing.dir or job.checkpoint_dir to a folder that all machines"
            " share",
        )
    if facts.local.checkpoint_folder_writable is False:
        yield Problem(
            "the checkpoint folder on this machine cannot be written to",
            "correct its owner or permissions, or free space",
        )


def flink_clock(facts: Facts, settings: Settings) -> Iterator[Problem]:
    ahead = facts.flink.clock_ahead_ms
    if ahead < -MAX_SKEW_MS or ahead > MAX_FLINK_BEHIND_MS:
        yield skew("Flink", ahead)


CHECKS = (
    Check("flink reachable", "flink", flink_reachable),
    Check("flink version", "flink", flink_version),
    Check("slots", "flink", slots),
    Check("gpu slots", "flink", gpu_slots),
    Check("metaspace", "flink", metaspace),
    Check("flink options", "flink", flink_options),
    Check("checkpoints", "flink", checkpoints),
    Check("flink clock", "flink", flink_clock),
)
