"""`liveprofile status`: shows the state of the running job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.config import Settings
from liveprofile.resources import product_path


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the job's state, consumer lag, last checkpoint and model version."""
    settings = read_settings(config)
    result = _collect_status(settings)
    if json:
        print_json(result)
        return
    checkpoint, lag_scoring = result["checkpoint"], result["lag_scoring"]
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
            "last checkpoint": checkpoint
            and f"{checkpoint['age_s']:.0f} s ago, took {checkpoint['duration_ms']} ms,"
            f" {checkpoint['size_bytes'] / 1e6:.1f} MB of state",
            "failed checkpoints": result["checkpoints_failed"],
            "model": result["model_version"],
        }
    )


def _collect_status(settings: Settings) -> dict[str, Any]:
    from liveprofile.flink.job_report import report
    from liveprofile.kafka.offsets import lag, scoring_group

    job = report(settings.flink.rest_url, settings.job.name)
    result: dict[str, Any] = job._asdict()
    result["checkpoint"] = job.checkpoint and job.checkpoint._asdict()
    result["lag_events"] = lag(settings)
    result["lag_scoring"] = (
        lag(settings, scoring_group(settings.kafka)) if settings.scoring.enabled else None
    )
    result["model_version"] = _model_version(product_path(settings.model.checkpoint))
    return result


def _model_version(checkpoint: Path) -> str | None:
    """Version of the configured model; None if its model card is not on this machine."""
    import orjson

    card = checkpoint / "card.json"
    return orjson.loads(card.read_bytes())["version"] if card.is_file() else None
