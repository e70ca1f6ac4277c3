"""The Flink jobs of the settings: one with both pipelines, or one for each."""

from typing import Any, Literal, NamedTuple, get_args

from liveprofile.errors import ConfigError
from liveprofile.settings import Settings

Pipeline = Literal["profile", "scoring"]
PIPELINES: tuple[Pipeline, ...] = get_args(Pipeline)


class Job(NamedTuple):
    pipeline: Pipeline | None  # that it has alone; None: it has all that are enabled
    settings: Settings  # with name, cluster and parallelism of this job

    def has(self, pipeline: Pipeline) -> bool:
        is_enabled = pipeline == "profile" or self.settings.scoring.enabled
        return is_enabled and self.pipeline in (None, pipeline)

    @property
    def arguments(self) -> list[str]:
        """That choose it, for jobs/profile_job.py and `liveprofile job`."""
        return ["--pipeline", self.pipeline] if self.pipeline else []


def jobs(settings: Settings, pipeline: Pipeline | None = None) -> list[Job]:
    """All jobs, or that of one pipeline. Raises ConfigError if there is none."""
    found = [Job(None, settings)]
    if settings.job.pipelines == "apart":
        running = PIPELINES if settings.scoring.enabled else PIPELINES[:1]
        found = [Job(each, _apart(settings, each)) for each in running]
    if pipeline and not (found := [job for job in found if job.pipeline == pipeline]):
        raise ConfigError(f"the settings have no job of --pipeline {pipeline} alone")
    return found


def only_job(settings: Settings, pipeline: Pipeline | None = None) -> Job:
    """Raises ConfigError if there are several."""
    job, *others = jobs(settings, pipeline)
    if others:
        raise ConfigError("job.pipelines = apart: choose a job with --pipeline")
    return job


def _apart(settings: Settings, pipeline: Pipeline) -> Settings:
    job, flink, scoring = settings.job, settings.flink, settings.scoring
    changes: dict[str, Any] = {"name": f"{job.name}-{pipeline}"}
    if pipeline == "scoring":
        changes["parallelism"] = scoring.parallelism
        flink = flink.model_copy(update={"rest_url": flink.scoring_rest_url or flink.rest_url})
    else:
        changes["changelog"] = False  # it is for alerts
    return settings.model_copy(update={"job": job.model_copy(update=changes), "flink": flink})
