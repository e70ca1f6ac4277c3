"""Which user model is in force, and which were before it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from console.formats import EMPTY
from liveprofile.units import SECOND_MS
from udfs.profile.deployment import KEPT_DEPLOYMENTS, Deployment, ModelReference, UserModels

CONFIGURED = "model.checkpoint of the settings"
CARD = "/models/versions/card"


class ServedModel(NamedTuple):
    version: str
    card: str  # address of its card


class DeploymentRow(NamedTuple):
    """canary: None if the model was for all users."""

    revision: int
    applied_ms: int
    applied_by: str
    model: ServedModel
    canary: ServedModel | None
    canary_percent: int
    restores: str  # what a rollback of it restores


class ModelVersions(NamedTuple):
    """active: for all users, or for all but those of the canary. history: newest first."""

    active: ServedModel
    canary: ServedModel | None
    canary_percent: int
    history: list[DeploymentRow]
    kept: int


def model_versions(models: UserModels | None, configured: str) -> ModelVersions:
    """models: None if the topic has no record. configured: version of the model of the settings."""
    of_settings = ServedModel(f"{configured} ({CONFIGURED})" if configured else CONFIGURED, CARD)
    history = [_row(each, of_settings) for each in (models.deployments if models else ())]
    if not history:
        return ModelVersions(of_settings, None, 0, [], KEPT_DEPLOYMENTS)
    newest = history[0]
    return ModelVersions(
        newest.model, newest.canary, newest.canary_percent, history, KEPT_DEPLOYMENTS
    )


def folder_of(
    models: UserModels | None, revision: int | None, canary: bool, configured: Path
) -> Path | None:
    """The checkpoint that a link to a card names; None if there is no such deployment."""
    if revision is None:
        return configured
    deployment = models.find(revision) if models else None
    if deployment is None:
        return None
    reference = deployment.canary if canary else deployment.model
    return reference.path if reference else None


def _row(deployment: Deployment, of_settings: ServedModel) -> DeploymentRow:
    revision = deployment.revision

    def served(reference: ModelReference, query: str = "") -> ServedModel:
        return ServedModel(reference.version, f"{CARD}?revision={revision}{query}")

    if deployment.canary is None and deployment.model is None:
        restores = EMPTY
    elif deployment.rolls_back_to is None:
        restores = CONFIGURED
    else:
        restores = f"revision {deployment.rolls_back_to}"
    return DeploymentRow(
        revision,
        round(deployment.applied_at.timestamp() * SECOND_MS),
        deployment.applied_by,
        served(deployment.model) if deployment.model else of_settings,
        served(deployment.canary, "&canary=true") if deployment.canary else None,
        deployment.canary_percent,
        restores,
    )
