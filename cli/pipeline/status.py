"""`liveprofile status`: how the job is doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.config import Settings
from liveprofile.resources import product_path


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the job's state, how far it is behind, its last checkpoint and its model."""
    settings = read_settings(config)
    answer = _look(settings)
    if json:
        print_json(answer)
        return
    checkpoint, behind = answer["checkpoint"], answer["lag_scoring"]
    print_fields(
        {
            "job": f"{settings.job.name} {answer['job_id']}",
            "state": f"{answer['state']} for {answer['uptime_s']:.0f} s,"
            f" {answer['tasks_running']} of {answer['tasks']} tasks running",
            "restarts": answer["restarts"],
            "events": f"{answer['events_per_second']:.0f} per second,"
            f" {answer['lag_events']} behind at the last checkpoint",
            "single events": None if behind is None else f"{behind} behind at the last checkpoint",
            "last checkpoint": checkpoint
            and f"{checkpoint['age_s']:.0f} s ago, took {checkpoint['duration_ms']} ms,"
            f" {checkpoint['size_bytes'] / 1e6:.1f} MB of state",
            "failed checkpoints": answer["checkpoints_failed"],
            "model": answer["model_version"],
        }
    )


def _look(settings: Settings) -> dict[str, Any]:
    from liveprofile.flink.job_report import report
    from liveprofile.kafka.offsets import lag, scoring_group

    job = report(settings.flink.rest_url, settings.job.name)
    answer: dict[str, Any] = job._asdict()
    answer["checkpoint"] = job.checkpoint and job.checkpoint._asdict()
    answer["lag_events"] = lag(settings)
    lane = settings.scoring.enabled
    answer["lag_scoring"] = lag(settings, scoring_group(settings.kafka)) if lane else None
    answer["model_version"] = _model_version(product_path(settings.model.checkpoint))
    return answer


def _model_version(checkpoint: Path) -> str | None:
    """Of the configured model; None if its card is not on this machine."""
    import orjson

    card = checkpoint / "card.json"
    return orjson.loads(card.read_bytes())["version"] if card.is_file() else None
