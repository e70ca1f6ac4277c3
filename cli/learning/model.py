"""`liveprofile model`: the user model that running jobs serve."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ByOption, Call
from cli.options import Commands
from liveprofile.errors import InputError
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from models.profile.deployment import Deployment

OLD_DAYS = 60  # of a model; docs/model.md has what was measured

model = Commands()


@model.command()
def apply(
    call: Call,
    folder: str,
    canary: Annotated[int | None, typer.Option(min=1, max=99)] = None,
    by: ByOption = "unknown",
) -> None:
    """Apply a user model: running jobs load it and switch to it within seconds.

    The command checks the files and writes their digests to the topic user-models. Each worker
    checks them again. A worker that cannot serve the model keeps the old one, and `liveprofile
    job status` warns.

    Example: `liveprofile model apply /shared/models/shop-2 --canary 20`

    Options:
    folder FOLDER: Model checkpoint: a folder that every worker can read under this name.
    canary PERCENT: Share of users that get it; the others keep the present model. Default: all.
    """
    from services import user_models

    _print(call, user_models.apply(call.settings, Path(folder), canary, by))


@model.command(name="list")
def list_deployments(call: Call) -> None:
    """List the model in force and the last deployments, newest first.

    Each model has the end of its training, if this machine can read its card. A model older than
    60 days should be trained again (docs/model.md).

    Example: `liveprofile model list --json`
    """
    from models.profile.deployment import read_user_models

    models = read_user_models(call.settings)
    deployments, configured = models.deployments if models else (), call.settings.model.checkpoint
    trained_until = _trained_until(configured, deployments)
    lines = [_line(each) for each in deployments]
    lines.append(f"{'-':>8}  {configured} (setting model.checkpoint)")
    now = datetime.now(UTC)
    lines += [_age(name, until, now) for name, until in trained_until.items()]
    call.print(
        {
            "configured": str(configured),
            "deployments": [one.model_dump(mode="json") for one in deployments],
            "trained_until": {name: until.isoformat() for name, until in trained_until.items()},
        },
        *lines,
    )


@model.command()
def rollback(call: Call, by: ByOption = "unknown") -> None:
    """End a canary, or restore the model before the present one.

    Example: `liveprofile model rollback --by anna`
    """
    from services import user_models

    _print(call, user_models.rollback(call.settings, by))


def _print(call: Call, applied: Deployment) -> None:
    call.print(applied.model_dump(mode="json"), _line(applied))


def _trained_until(configured: Path, deployments: Sequence[Deployment]) -> dict[str, datetime]:
    """The end of the training of each model whose card this machine can read, by folder."""
    from models.profile.model_card import ModelCard

    folders = {str(configured): product_path(configured)}
    for deployment in deployments:
        for reference in (deployment.model, deployment.canary):
            if reference is not None:
                folders[reference.folder] = reference.path
    found = {}
    for name, folder in folders.items():
        # The other models may be on the workers' machines only.
        with suppress(InputError):
            found[name] = ModelCard.read(folder).trained_until
    return found


def _age(folder: str, until: datetime, now: datetime) -> str:
    days = (now - until).days
    advice = "; train it again (docs/model.md)" if days > OLD_DAYS else ""
    return f"{folder}: trained on windows until {until:%Y-%m-%d}, {days} days ago{advice}"


def _line(deployment: Deployment) -> str:
    models: list[Any] = [deployment.model.version if deployment.model else "model.checkpoint"]
    if deployment.canary is not None:
        models.append(f"{deployment.canary.version} for {deployment.canary_percent} % of users")
    applied = f"{deployment.applied_at:%Y-%m-%d %H:%M:%S} by {deployment.applied_by}"
    return f"{deployment.revision:>8}  {', '.join(models)}  {applied}"
