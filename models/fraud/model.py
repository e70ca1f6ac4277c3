"""The model of single events: the probability that an event is a fraud.

Gradient boosted trees (Chen and Guestrin 2016, arXiv:1603.02754) on the event's features and, if
the model has a sequence model (event_sequence.py), on its log-odds; those of the trees are turned
into probabilities by a logistic curve (Platt 1999, "Probabilistic outputs for support vector
machines"), which keeps their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xgboost as xgb

from liveprofile.drift.reference import Reference
from liveprofile.errors import InputError
from liveprofile.features.entity import NAMES, Rows, from_rows

if TYPE_CHECKING:  # a model without a sequence model needs no torch
    from models.fraud.sequence.network import EventSequence
    from models.profile.device import Device

FORMAT = 2
_READ = (1, FORMAT)  # 1: no sequence model
CARD, BOOSTER = "card.json", "model.ubj"
SEQUENCE = "sequence_log_odds"  # what the trees call the sequence model's log-odds
ANY_TYPE = "any"
_SURE = 30.0  # log-odds


class Calibration(NamedTuple):
    """calibrated log-odds = slope * log-odds of the trees + intercept."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class EventModel:
    """`usual`: by event type, and ANY_TYPE for all, the median of each feature over legitimate
    events of the training, in the order of `names`; NaN where none is known."""

    name: str
    names: list[str]  # the inputs of its trees, F: features, and SEQUENCE if it has a `sequence`
    delay_days: float  # until most labels are known: asked of the features
    booster: xgb.Booster
    calibration: Calibration
    usual: dict[str, list[float]]
    about: dict[str, Any]  # recipe, seeds, metrics, reliability, versions: for the card
    reference: Reference | None = None  # what drift is measured against; None: it isn't
    sequence: EventSequence | None = None

    @cached_property
    def version(self) -> str:
        """Changes with the trees, the calibration and the sequence model."""
        content = bytes(self.booster.save_raw("ubj")) + repr(tuple(self.calibration)).encode()
        content += self.sequence.weights if self.sequence else b""
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}"

    def columns(self, rows: Rows) -> dict[str, np.ndarray]:
        """(n,) for each of liveprofile.features.entity.NAMES, and SEQUENCE if the model asks for it."""
        return columns_of(rows, self.delay_days, self.sequence)

    def matrix(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, F) float32 of named columns (n,)."""
        return np.array([features[name] for name in self.names], np.float32).T

    def log_odds(self, x_nF: np.ndarray) -> np.ndarray:
        """(n,) calibrated."""
        return self.calibration.slope * margins(self.booster, x_nF) + self.calibration.intercept

    def score(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n,) calibrated probability of fraud of named columns (n,)."""
        return probability(self.log_odds(self.matrix(features)))

    def usual_of(self, event_type: str) -> np.ndarray:
        """(F,) usual values of an event of the type."""
        return np.array(self.usual.get(event_type, self.usual[ANY_TYPE]))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.booster.save_model(folder / BOOSTER)
        card = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "delay_days": self.delay_days,
            "calibration": self.calibration._asdict(),
            **self.about,
            "names": self.names,
            **({"sequence": self.sequence.save(folder)} if self.sequence else {}),
            "usual": {
                event_type: [None if np.isnan(one) else float(f"{one:.6g}") for one in values]
                for event_type, values in self.usual.items()
            },
        }
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
        if self.reference is not None:
            self.reference.save(folder)

    @classmethod
    def load(cls, folder: Path, device: Device = "auto", threads: int = 1) -> EventModel:
        """`device` and `threads` are of a sequence model, and the latter holds for the whole
        process; trees compute in one thread of the CPU.

        Raises InputError naming the file or feature that can't be used, ModelError for a device
        that is not there.
        """
        try:
            card = json.loads((folder / CARD).read_text())
            booster = xgb.Booster(model_file=folder / BOOSTER)
        except OSError as error:
            raise InputError(f"event model {folder}: {error.strerror or error}") from None
        except (ValueError, xgb.core.XGBoostError) as error:
            raise InputError(f"event model {folder}: {str(error).splitlines()[0]}") from None
        if card.get("format") not in _READ:
            raise InputError(
                f"event model {folder}: format {card.get('format')}, this version reads"
                f" {' and '.join(map(str, _READ))}"
            )
        sequence = _sequence(folder, card.get("sequence"), device, threads)
        known = {*NAMES, SEQUENCE} if sequence else NAMES
        unknown = [name for name in card["names"] if name not in known]
        if unknown:
            raise InputError(
                f"event model {folder}: wants feature {unknown[0]}, which is not known"
            )
        reference = Reference.load(folder)
        unknown = set(reference.features if reference else ()) - set(card["names"])
        if unknown:
            raise InputError(
                f"event model {folder}: its reference watches {min(unknown)}, which it doesn't"
                " ask for"
            )
        booster.set_param(
            {"nthread": 1}
        )  # a batch is small: threads would only wait for each other
        fields = (
            "format", "name", "version", "delay_days", "calibration", "names", "usual", "sequence",
        )  # fmt: skip
        return cls(
            card["name"],
            card["names"],
            card["delay_days"],
            booster,
            Calibration(**card["calibration"]),
            {
                event_type: [np.nan if one is None else one for one in values]
                for event_type, values in card["usual"].items()
            },
            {name: value for name, value in card.items() if name not in fields},
            reference,
            sequence,
        )


def _sequence(
    folder: Path, about: dict[str, Any] | None, device: Device, threads: int
) -> EventSequence | None:
    if about is None:
        return None
    import torch

    from models.fraud.sequence.network import EventSequence
    from models.profile.device import device_of

    torch.set_num_threads(threads)
    return EventSequence.load(folder, about, device_of(device))


def columns_of(
    rows: Rows, delay_days: float, sequence: EventSequence | None
) -> dict[str, np.ndarray]:
    """(n,) for each of liveprofile.features.entity.NAMES, and SEQUENCE if there is a sequence model."""
    columns = from_rows(rows, delay_days)
    if sequence is not None:
        columns[SEQUENCE] = sequence.log_odds(rows)
    return columns


def margins(booster: xgb.Booster, x_nF: np.ndarray) -> np.ndarray:
    """(n,) log-odds of the trees."""
    # Columns come in the booster's order: to compare 400 names takes longer than to score.
    return booster.inplace_predict(x_nF, predict_type="margin", validate_features=False)


def probability(log_odds_n: np.ndarray) -> np.ndarray:
    """Above 0 and below 1, however sure the trees are."""
    return 1 / (1 + np.exp(-np.clip(log_odds_n.astype(np.float64), -_SURE, _SURE)))
