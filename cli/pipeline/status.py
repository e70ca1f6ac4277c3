"""`liveprofile status`: shows the state of the running job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.config import Settings
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.flink.model_report import ModelReport
    from liveprofile.flink.scoring_report import ScoringReport

OVERDUE_INTERVALS = 3
SLACK_S = 5.0  # a checkpoint itself takes time


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the job's state, consumer lag, last checkpoint and model version.

    Exits with 1 if there is a warning: no checkpoint has completed for three intervals, events were
    not scored since the job's last start or restart, or a worker has refused a user model.

    Example: `liveprofile status --json`
    """
    settings = read_settings(config)
    result = _collect_status(settings)
    if json:
        print_json(result)
    else:
        _print_status(settings, result)
    if result["warnings"]:
        raise typer.Exit(1)


def _print_status(settings: Settings, result: dict[str, Any]) -> None:
    checkpoint, lag_scoring, scoring = (
        result[name] for name in ("checkpoint", "lag_scoring", "scoring")
    )
    print_fields(
        {
            "job": f"{settings.job.name} {result['job_id']}",
            "state": f"{result['state']} for {result['uptime_s']:.0f} s,"
            f" {result['tasks_running']} of {result['tasks']} tasks running",
            "restarts": result["restarts"],
            "profile pipeline": f"{result['events_per_second']:.0f} events per second,"
            f" {result['lag_events']} records behind at the last checkpoint",
            "scoring pipeline": None
            if lag_scoring is None
            else f"{lag_scoring} records behind at the last checkpoint",
            "events to score": scoring
            and f"{scoring['events']} since the last start, {scoring['incomplete']} incomplete,"
            f" {scoring['unscored']} unscored",
            "last checkpoint": checkpoint
            and f"{checkpoint['age_s']:.0f} s ago, took {checkpoint['duration_ms']} ms,"
            f" {checkpoint['size_bytes'] / 1e6:.1f} MB of state",
            "failed checkpoints": result["checkpoints_failed"],
            "model": _describe_model(result),
        }
    )
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def _collect_status(settings: Settings) -> dict[str, Any]:
    from liveprofile.flink.job_report import report
    from liveprofile.flink.model_report import model_report
    from liveprofile.flink.scoring_report import scoring_report
    from liveprofile.kafka.offsets import lag, scoring_group

    job = report(settings.flink.rest_url, settings.job.name)
    result: dict[str, Any] = job._asdict()
    result["checkpoint"] = job.checkpoint and job.checkpoint._asdict()
    result["lag_events"] = lag(settings)
    result["lag_scoring"] = (
        lag(settings, scoring_group(settings.kafka)) if settings.scoring.enabled else None
    )
    scoring = (
        scoring_report(settings.flink.rest_url, job.job_id) if settings.scoring.enabled else None
    )
    result["scoring"] = scoring and scoring._asdict()
    result["model_version"] = _model_version(product_path(settings.model.checkpoint))
    models = model_report(settings.flink.rest_url, job.job_id)
    result["models"] = models and models._asdict()
    result["warnings"] = [
        *_checkpoint_warnings(settings, result),
        *scoring_warnings(scoring),
        *model_warnings(models),
    ]
    return result


def _describe_model(result: dict[str, Any]) -> str | None:
    models = result["models"]
    if not models or not models["highest_revision"]:
        return result["model_version"]
    return f"revision {models['highest_revision']} of `liveprofile model list`"


def _checkpoint_warnings(settings: Settings, result: dict[str, Any]) -> list[str]:
    checkpoint = result["checkpoint"]
    age_s = result["uptime_s"] if checkpoint is None else checkpoint["age_s"]
    if age_s <= OVERDUE_INTERVALS * settings.job.checkpoint_interval_ms / 1_000 + SLACK_S:
        return []
    return [
        f"no checkpoint has completed for {age_s:.0f} s, {result['checkpoints_failed']} have"
        " failed: after a failure the job reads this time again. Is the checkpoint folder full,"
        " or not writable?"
    ]


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


def _model_version(checkpoint: Path) -> str | None:
    """Version of the configured model; None if its model card is not on this machine."""
    import orjson

    card = checkpoint / "card.json"
    return orjson.loads(card.read_bytes())["version"] if card.is_file() else None
