"""`liveprofile job status`: shows the state of the running job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.resources import product_path
from liveprofile.settings import Settings


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the job's state, consumer lag, last checkpoint and model version.

    Exits with 1 if there is a warning: no checkpoint has completed for three intervals, events were
    not scored since the job's last start or restart, or a worker has refused a user model.

    Example: `liveprofile job status --json`
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
    from liveprofile.flink.job_report import (
        checkpoint_warnings,
        model_warnings,
        report,
        scoring_report,
        scoring_warnings,
    )
    from liveprofile.flink.operator_metrics import model_report
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
        *checkpoint_warnings(job, settings.job.checkpoint_interval_ms),
        *scoring_warnings(scoring),
        *model_warnings(models),
    ]
    return result


def _describe_model(result: dict[str, Any]) -> str | None:
    models = result["models"]
    if not models or not models["highest_revision"]:
        return result["model_version"]
    return f"revision {models['highest_revision']} of `liveprofile model list`"


def _model_version(checkpoint: Path) -> str | None:
    """Version of the configured model; None if its model card is not on this machine."""
    import orjson

    card = checkpoint / "card.json"
    return orjson.loads(card.read_bytes())["version"] if card.is_file() else None
