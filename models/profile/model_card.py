"""Model cards: card.json describes a model, its training data and its metrics.

This module does not import torch, so that commands read a card without its seconds of start-up.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.errors import InputError

WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "card.json"


class _Format(BaseModel):
    format: int


class BaseCard(BaseModel):
    """The fields that the model cards of all kinds of models share."""

    model_config = ConfigDict(extra="forbid")
    FORMAT: ClassVar[int]

    format: int
    libraries: dict[str, str]
    sha256: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the card of a checkpoint folder. Raises InputError naming the first bad field."""
        file = folder / CARD
        try:
            text = file.read_bytes()
            # Before the other fields, which another format need not have.
            found = _Format.model_validate_json(text).format
            if found != cls.FORMAT:
                raise InputError(
                    f"model card {file}: format = {found}, but this version reads {cls.FORMAT};"
                    " train the model again"
                )
            return cls.model_validate_json(text)
        except OSError:
            raise InputError(f"model checkpoint {folder}: {CARD} is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"model card {file}: {key}: {first['msg']}") from None


class ModalityTrial(BaseModel):
    """The result of models/profile/training/fit_modalities.py for one modality."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="the encoder's name, or @place")
    numbers: int = Field(ge=1, description="the length of a vector")
    kept: bool = Field(description="whether the model has weights for the modality")
    metrics: dict[str, Any]


class ModelCard(BaseCard):
    """The card of a user model."""

    FORMAT: ClassVar[int] = 3

    name: str
    version: str = Field(min_length=1, max_length=100)
    revision: int = Field(ge=0, le=999, description="breaks ties between writes of one window")
    horizon_days: int = Field(ge=1, description="horizon of churn and expected spend")
    decay_days: float = Field(gt=0, description="decay of the baselines and the repeat counts")
    shape: dict[str, int]
    recipe: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    surprise_quantiles: dict[str, float]
    modalities: list[ModalityTrial] = []

    @property
    def trained_until(self) -> datetime:
        """The end of the last window of the model's training. Raises InputError."""
        try:
            return datetime.fromisoformat(self.data["train_until"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"model card of {self.version}: data.train_until is no time; train the model again"
            ) from None
