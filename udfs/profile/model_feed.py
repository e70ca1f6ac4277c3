"""The user models in force: of the setting model.checkpoint, or of the topic user-models.

A thread follows the topic. It checks, loads and warms a new model while the old one serves, and
then replaces it; a batch reads the models once, so no batch sees two deployments. A model that
cannot be served is refused: the models before it stay in force.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from liveprofile.errors import InputError, LiveprofileError
from liveprofile.feeds.feed import Current, Feed, OpenSource, TableSpec
from liveprofile.settings import Settings
from models.profile.deployment import (
    Deployment,
    ModelReference,
    TopicModels,
    UserModels,
    in_canary,
    incompatibility,
    models_spec,
)
from models.profile.model_card import ModelCard
from udfs.worker import DATA_ERRORS

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel

    LoadModel = Callable[[ModelReference], ProfileModel]

log = logging.getLogger(__name__)

LOADING_NICENESS = 19  # of the thread that loads a model beside the one that serves
NOT_SERVABLE = (LiveprofileError, OSError, RuntimeError, *DATA_ERRORS)


class ActiveModels(NamedTuple):
    """The models of one deployment. Their revision is that of the deployment."""

    model: ProfileModel
    canary: ProfileModel | None = None
    canary_percent: int = 0

    def split(self, user_ids: Sequence[str]) -> list[tuple[ProfileModel, Sequence[int]]]:
        """Returns each model with the indices of its users' rows, in order; no empty parts."""
        if self.canary is None:
            return [(self.model, range(len(user_ids)))]
        rows: tuple[list[int], list[int]] = ([], [])
        chosen: dict[str, bool] = {}
        for row, user_id in enumerate(user_ids):
            if user_id not in chosen:
                version, percent = self.canary.version, self.canary_percent
                chosen[user_id] = in_canary(user_id, version, percent)
            rows[chosen[user_id]].append(row)
        return [pair for pair in zip((self.model, self.canary), rows, strict=True) if pair[1]]


class ModelFeed(Feed[ActiveModels]):
    """Keeps the models in force up to date.

    configured: serves until a deployment of the topic can, and where a deployment names no model.
    load: returns a loaded and warmed model. One of NOT_SERVABLE refuses it.
    spec, open_source, timing: see Feed.

    The constructor returns when the topic's deployment is loaded, so a restarted worker goes on
    with it.
    """

    def __init__(
        self,
        spec: TableSpec[UserModels | None],
        configured: ProfileModel,
        load: LoadModel,
        open_source: OpenSource,
        **timing: float,
    ):
        self._configured, self._load = configured, load
        self._deployment: Deployment | None = None  # in force
        self._loaded: dict[frozenset, ProfileModel] = {}  # by digests: those that may serve again
        self._refused: set[str] = set()  # deployments, and positions of invalid records
        self._serving = False
        super().__init__(spec, ActiveModels(configured), open_source, **timing)
        self._serving = True

    @property
    def revision(self) -> int:
        """Of the deployment in force; 0: the model of the settings, by no deployment."""
        return self._deployment.revision if self._deployment else 0

    @property
    def refused(self) -> int:
        """Deployments and records that came after the deployment in force and are refused."""
        return len(self._refused)

    def _publish(self, table: TopicModels) -> str:
        problem = self._set_current(table.models) if table.models is not None else ""
        for position, reason in table.invalid.items():
            self._refuse(position, reason)
        return problem

    def _refuse(self, what: str, reason: str) -> None:
        if what not in self._refused:
            version = self._current.model.version
            log.warning("%s is refused, model %s stays in force: %s", what, version, reason)
            self._refused.add(what)  # after the message, which then explains the count

    def _set_current(self, models: UserModels) -> str:
        """Puts the newest deployment that can be served in force. Returns a problem, or ""."""
        newest, above = models.newest, self.revision
        if newest.revision < above:
            return f"the topic's newest revision {newest.revision} is older than revision {above}"
        if newest.revision == above and newest != self._deployment:
            above -= 1  # two commands at the same time: the later record counts
        for deployment in models.candidates(above):
            name = f"revision {deployment.revision} of {deployment.applied_at.isoformat()}"
            if name in self._refused:
                continue
            try:
                active = self._prepare(deployment)
            except NOT_SERVABLE as error:
                self._refuse(name, str(error))
                continue
            self._forget_except(deployment, models.find(deployment.rolls_back_to))
            if deployment == newest:
                self._refused.clear()
            # Last: whoever sees the new models sees no refusal from before them.
            self._current, self._deployment = active, deployment
            log.info(
                "revision %d in force: model %s, canary %s for %d %% of users",
                deployment.revision,
                active.model.version,
                active.canary and active.canary.version,
                active.canary_percent,
            )
            break
        return ""

    def _prepare(self, deployment: Deployment) -> ActiveModels:
        """Raises one of NOT_SERVABLE."""
        if self._serving:
            _lower_thread_priority()
        model, canary = map(self._model, (deployment.model, deployment.canary))
        return ActiveModels(
            (model or self._configured).with_revision(deployment.revision),
            canary and canary.with_revision(deployment.revision),
            deployment.canary_percent,
        )

    def _model(self, reference: ModelReference | None) -> ProfileModel | None:
        if reference is None:
            return None
        key = _content(reference)
        if key not in self._loaded:
            self._loaded[key] = self._load(reference)
        return self._loaded[key]

    def _forget_except(self, *deployments: Deployment | None) -> None:
        """Keeps the models in force and those of a rollback, which then needs no file."""
        kept = {
            _content(reference)
            for deployment in deployments
            if deployment is not None
            for reference in (deployment.model, deployment.canary)
            if reference is not None
        }
        self._loaded = {key: model for key, model in self._loaded.items() if key in kept}


def _content(reference: ModelReference) -> frozenset:
    return frozenset(reference.sha256.items())


def _lower_thread_priority() -> None:
    """On Linux a thread has a niceness of its own."""
    with suppress(OSError):  # a system without it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)


def load_checkpoint(settings: Settings, folder: Path) -> ProfileModel:
    """Loads a model checkpoint as the settings say and runs every length once.

    Raises InputError for an invalid checkpoint, or one whose outputs are no finite numbers, and
    torch.OutOfMemoryError.
    """
    # Imported here because the client that submits the job needs no torch.
    from models.profile.inference import ProfileModel

    options = settings.model
    model = ProfileModel.load(
        folder,
        device=options.device,
        threads=options.threads,
        batch_rows=options.batch_rows,
    )
    scores = model.warm_up()
    outputs = [scores.embedding_after, scores.churn_after, scores.spend_after, scores.surprise]
    outputs += scores.value_curves.values_BHK.values()
    if not all(np.isfinite(values).all() for values in outputs):
        raise InputError(f"model checkpoint {folder}: its outputs are no finite numbers")
    return model


def load_reference(settings: Settings, embedding: int, reference: ModelReference) -> ProfileModel:
    """Loads what a deployment names. embedding: see `incompatibility`.

    Raises InputError if the files are not those that were applied, or the job cannot serve them.
    Loaded beside the models in force, it must leave them the device's memory.
    """
    reference.verify()
    card = ModelCard.read(reference.path)
    if reason := incompatibility(card, settings.state.decay_days, embedding):
        raise InputError(reason)
    return load_checkpoint(settings, reference.path)


def open_model_feed(settings: Settings, configured: ProfileModel) -> ModelFeed:
    """Opens the feed of a job. configured: see ModelFeed."""
    spec = models_spec(settings)
    return ModelFeed(
        spec,
        configured,
        lambda reference: load_reference(settings, configured.dim, reference),
        lambda: spec.open(settings),
    )


def report_models(group: Any, feed: Current[ActiveModels]) -> None:
    """Reports the feed's state as Flink gauges (liveprofile/flink/operator_metrics.py)."""
    if isinstance(feed, ModelFeed):
        group = group.add_group("liveprofile")
        group.gauge("model_revision", lambda: feed.revision)
        group.gauge("models_refused", lambda: feed.refused)
