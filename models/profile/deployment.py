"""Which user model the job serves: the record of the topic `user-models` (schema: UserModels).

The topic is compacted and has one key, so its one record says everything: the deployment in force
and those before it. A change is a new record with a new deployment; deployments are never changed.

Revisions rise with every deployment, also with a rollback, and are above those of model cards. They
are part of a row's write time (udfs.cassandra.encoding.write_time_us). So what is served after a
rollback replaces what was stored before it, and a late replay with an older deployment does not
undo that.

This module does not import torch, so that commands use it without its seconds of start-up.
"""

from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from liveprofile.errors import InputError
from liveprofile.feeds.feed import TableSpec, TopicTable
from liveprofile.kafka.records import Record, send_all
from liveprofile.resources import sha256
from liveprofile.settings import Settings
from models.profile.model_card import CARD, VOCABULARY, WEIGHTS, ModelCard

KEY = b"user-model"
# Above every card's revision. A window end has whole milliseconds and windows of a user are at
# least a second long, so a write time has room for a million revisions.
FIRST_REVISION, LAST_REVISION = 1_000, 999_999
KEPT_DEPLOYMENTS = 20
FILES = (CARD, WEIGHTS, VOCABULARY)
_HASH_RANGE = 1 << 64


class ModelReference(BaseModel):
    """A model checkpoint that every worker can read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=100)
    folder: str = Field(description="an absolute path")
    sha256: dict[str, str] = Field(description="digest of each of the checkpoint's files")

    @field_validator("folder")
    @classmethod
    def _is_readable_place(cls, value: str) -> str:
        local_path(value)
        return value

    @model_validator(mode="after")
    def _names_all_files(self) -> Self:
        if set(self.sha256) != set(FILES):
            raise ValueError(f"sha256 must have {', '.join(FILES)}")
        return self

    @property
    def path(self) -> Path:
        return local_path(self.folder)

    def verify(self) -> None:
        """Raises InputError for a file that is missing or is not the one that was applied."""
        for name, digest in self.sha256.items():
            file = self.path / name
            try:
                found = sha256(file)
            except OSError as error:
                raise InputError(f"model checkpoint {file}: {error.strerror}") from None
            if found != digest:
                raise InputError(f"model checkpoint {file}: its SHA-256 is not that of the record")


class Deployment(BaseModel):
    """A model for all users, or all but those of a canary."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: int = Field(ge=FIRST_REVISION, le=LAST_REVISION)
    model: ModelReference | None = Field(description="null: that of the setting model.checkpoint")
    canary: ModelReference | None = None
    canary_percent: int = Field(0, ge=0, le=99, description="share of users with the canary")
    rolls_back_to: int | None = Field(
        None, description="revision of the deployment before; null: the setting model.checkpoint"
    )
    applied_at: datetime
    applied_by: str = Field("unknown", max_length=200)

    @model_validator(mode="after")
    def _canary_has_a_share(self) -> Self:
        if (self.canary is None) != (self.canary_percent == 0):
            raise ValueError("canary and canary_percent need each other")
        return self


class UserModels(BaseModel):
    """The value of the topic's record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deployments: tuple[Deployment, ...] = Field(min_length=1, description="newest first")

    @model_validator(mode="after")
    def _revisions_fall(self) -> Self:
        revisions = [deployment.revision for deployment in self.deployments]
        if revisions != sorted(set(revisions), reverse=True):
            raise ValueError("deployments must be in order of falling revisions")
        return self

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Raises InputError naming the first bad field."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the record"
            raise InputError(f"{key}: {first['msg']}") from None

    @property
    def newest(self) -> Deployment:
        return self.deployments[0]

    def find(self, revision: int | None) -> Deployment | None:
        """The deployment with this revision, if it is kept."""
        found = (one for one in self.deployments if one.revision == revision)
        return next(found, None)

    def candidates(self, above: int) -> list[Deployment]:
        """The deployments to try in turn: the newest, the one that it rolls back to, and so on.

        above: the revision in force; deployments up to it are no candidates. A deployment that was
        rolled back is none either.
        """
        tried: list[Deployment] = []
        candidate: Deployment | None = self.newest
        while candidate is not None and candidate.revision > above:
            tried.append(candidate)
            candidate = self.find(candidate.rolls_back_to)
        return tried


def local_path(folder: str) -> Path:
    """Raises ValueError for a relative path or a URI."""
    if "://" in folder:
        raise ValueError(f"{folder} is no local folder: copy it to the workers, or mount it")
    if not Path(folder).is_absolute():
        raise ValueError(f"{folder} is a relative path: workers run in folders of their own")
    return Path(folder)


def reference_to(folder: str) -> ModelReference:
    """Describes a model checkpoint as it is now.

    Raises InputError if it is incomplete or not on this machine.
    """
    try:
        path = local_path(folder)
    except ValueError as error:
        raise InputError(f"model checkpoint {error}") from None
    card = ModelCard.read(path)
    digests = {}
    for name in FILES:
        try:
            digests[name] = sha256(path / name)
        except OSError as error:
            raise InputError(f"model checkpoint {path / name}: {error.strerror}") from None
    for name, digest in card.sha256.items():
        if digests.get(name) != digest:
            raise InputError(f"model checkpoint {path / name}: not the file that {CARD} describes")
    return ModelReference(version=card.version, folder=folder, sha256=digests)


def apply(
    models: UserModels | None,
    reference: ModelReference,
    canary_percent: int | None,
    applied_by: str,
    now: datetime | None = None,
) -> UserModels:
    """Adds the deployment of a model: to all users, or to a canary beside the present model.

    A canary takes the place of an earlier canary. models: None if the topic has no record.
    Raises InputError if no revision is left.
    """
    current = models and models.newest
    before = current and (current.rolls_back_to if current.canary else current.revision)
    canary = canary_percent is not None
    return _with_deployment(
        models,
        model=(current and current.model) if canary else reference,
        canary=reference if canary else None,
        canary_percent=canary_percent or 0,
        rolls_back_to=before,
        applied_at=now or datetime.now(UTC),
        applied_by=applied_by,
    )


def rollback(models: UserModels | None, applied_by: str, now: datetime | None = None) -> UserModels:
    """Adds a deployment that ends a canary, or else restores the model before the present one.

    Raises InputError if there is nothing to roll back, or the earlier deployment is not kept.
    """
    current = models and models.newest
    if current is None or (current.model is None and current.canary is None):
        raise InputError("the job serves the model of the setting model.checkpoint: nothing before")
    before = models.find(current.rolls_back_to)
    if before is None and current.rolls_back_to is not None:
        raise InputError(
            f"revision {current.rolls_back_to} is not among the last {KEPT_DEPLOYMENTS}"
            " deployments: apply its folder"
        )
    return _with_deployment(
        models,
        model=before.model if before else None,
        rolls_back_to=before.rolls_back_to if before else None,
        applied_at=now or datetime.now(UTC),
        applied_by=applied_by,
    )


def _with_deployment(models: UserModels | None, **fields: object) -> UserModels:
    earlier = models.deployments if models else ()
    revision = earlier[0].revision + 1 if earlier else FIRST_REVISION
    if revision > LAST_REVISION:
        raise InputError(
            f"revision {LAST_REVISION} is the last: start a job with a topic and a keyspace of its"
            " own"
        )
    added = Deployment(revision=revision, **fields)
    return UserModels(deployments=(added, *earlier[: KEPT_DEPLOYMENTS - 1]))


def in_canary(user_id: str, version: str, percent: int) -> bool:
    """Whether a user gets the canary of this version.

    A user who does at one share does at every larger share. Another version draws other users.
    """
    digest = blake2b(f"{version}\0{user_id}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest()) * 100 < percent * _HASH_RANGE


def incompatibility(card: ModelCard, decay_days: float, embedding: int) -> str:
    """Why the running job cannot serve a model, "" if it can.

    decay_days: of the job's sums. embedding: numbers of a stored embedding.
    """
    if card.decay_days != decay_days:
        return (
            f"state.decay_days = {decay_days:g}, but model {card.version} was trained with"
            f" {card.decay_days:g}"
        )
    if card.shape.get("embedding") != embedding:
        return (
            f"model {card.version} has embeddings of {card.shape.get('embedding')} numbers, but"
            f" the job stores {embedding}"
        )
    return ""


class TopicModels(TopicTable["UserModels | None"]):
    """The record of the topic user-models: the newest valid one."""

    def __init__(self) -> None:
        self.models: UserModels | None = None
        self.invalid: dict[str, str] = {}  # position -> problem of the records after it

    def put(self, record: Record) -> None:
        self.models = UserModels.parse(record.value or b"")
        self.invalid.clear()

    def refuse(self, record: Record, error: InputError) -> None:
        self.invalid[f"{record.topic}/{record.partition} offset {record.offset}"] = str(error)

    def value(self) -> UserModels | None:
        return self.models


def models_spec(settings: Settings) -> TableSpec[UserModels | None]:
    return TableSpec(
        "models",
        settings.topics.models,
        "liveprofile-models",
        TopicModels,
        lambda active: f"model {active.model.version} stays",
        required=False,
    )


def read_user_models(settings: Settings) -> UserModels | None:
    """Reads the topic once. None: it has no valid record, or does not exist. Raises ServiceError.

    As in the workers, an invalid record does not count.
    """
    return models_spec(settings).read(settings).value()


def write_user_models(settings: Settings, models: UserModels) -> None:
    """Makes this the record in force. Raises ServiceError."""
    value = models.model_dump_json().encode()
    send_all(settings, settings.topics.models, [(KEY, value, {})])
