"""What an operator should look at, from the reports of a job."""

from __future__ import annotations

from collections.abc import Iterator

from liveprofile.flink.job_report import JobReport
from liveprofile.flink.model_report import ModelReport
from liveprofile.flink.scoring_report import ScoringReport

OVERDUE_INTERVALS = 3
SLACK_S = 5.0  # a checkpoint itself takes time


def checkpoint_warnings(job: JobReport, interval_ms: int) -> Iterator[str]:
    """Whether checkpoints are overdue. interval_ms: the setting job.checkpoint_interval_ms."""
    age_s = job.uptime_s if job.checkpoint is None else job.checkpoint.age_s
    if age_s > OVERDUE_INTERVALS * interval_ms / 1_000 + SLACK_S:
        yield (
            f"no checkpoint has completed for {age_s:.0f} s, {job.checkpoints_failed} have"
            " failed: after a failure the job reads this time again. Is the checkpoint folder full,"
            " or not writable?"
        )


def scoring_warnings(scoring: ScoringReport | None) -> Iterator[str]:
    if scoring and scoring.lost:
        yield (
            f"{scoring.lost} of {scoring.events} events lack a part and are not scored; after"
            " scoring.rejoin_ttl_ms they are lost. Is one task much slower than the others?"
        )
    if scoring and scoring.unscored:
        yield f"{scoring.unscored} events could not be scored: the TaskManagers' logs say why"


def model_warnings(models: ModelReport | None) -> Iterator[str]:
    if models and models.refused:
        yield (
            f"a worker has refused {models.refused} deployments of the user model and serves an"
            " earlier one: the TaskManagers' logs say why"
        )
    if models and models.lowest_revision != models.highest_revision:
        yield (
            f"workers serve user models of revision {models.lowest_revision} to"
            f" {models.highest_revision}: for seconds after a change; later, some have refused it"
        )
