"""The user model that running jobs serve: its change by the topic user-models."""

from pathlib import Path

from liveprofile.errors import InputError
from liveprofile.kafka.topics import create_topics
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from models.profile import deployment
from models.profile.deployment import (
    Deployment,
    UserModels,
    incompatibility,
    read_user_models,
    write_user_models,
)
from models.profile.model_card import ModelCard


def apply(settings: Settings, folder: Path, canary_percent: int | None, by: str) -> Deployment:
    """Deploys the model checkpoint of a folder, to all users or to a share of them.

    Raises InputError for a model that the workers would refuse, and ServiceError.
    """
    reference = deployment.reference_to(str(folder.absolute()))
    configured = ModelCard.read(product_path(settings.model.checkpoint))
    reason = incompatibility(
        ModelCard.read(reference.path), settings.state.decay_days, configured.shape["embedding"]
    )
    if reason:
        raise InputError(reason)
    return _write(
        settings, deployment.apply(read_user_models(settings), reference, canary_percent, by)
    )


def rollback(settings: Settings, by: str) -> Deployment:
    """Ends a canary, or restores the model before the present one.

    Raises InputError if there is nothing to roll back, and ServiceError.
    """
    return _write(settings, deployment.rollback(read_user_models(settings), by))


def _write(settings: Settings, models: UserModels) -> Deployment:
    create_topics(settings)
    write_user_models(settings, models)
    return models.newest
