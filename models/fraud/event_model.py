"""The model of single events: the probability that an event is a fraud, by its features.

Gradient boosted trees (Chen and Guestrin 2016, arXiv:1603.02754); their log-odds are turned into
probabilities by a logistic curve (Platt 1999, "Probabilistic outputs for support vector machines"),
which keeps their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb

from liveprofile.errors import InputError
from udfs.drift.reference import Reference
from udfs.event_features import NAMES

FORMAT = 1
CARD, BOOSTER = "card.json", "model.ubj"
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
    names: list[str]  # the features that it wants, F
    delay_days: float  # until most labels are known: asked of the features
    booster: xgb.Booster
    calibration: Calibration
    usual: dict[str, list[float]]
    about: dict[str, Any]  # recipe, seeds, metrics, reliability, versions: for the card
    reference: Reference | None = None  # what drift is measured against; None: it isn't

    @cached_property
    def version(self) -> str:
        """Changes with the trees and the calibration."""
        content = bytes(self.booster.save_raw("ubj")) + repr(tuple(self.calibration)).encode()
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}"

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
            "usual": {
                event_type: [None if np.isnan(one) else float(f"{one:.6g}") for one in values]
                for event_type, values in self.usual.items()
            },
        }
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
        if self.reference is not None:
            self.reference.save(folder)

    @classmethod
    def load(cls, folder: Path) -> EventModel:
        """Raises InputError naming the file or feature that can't be used."""
        try:
            card = json.loads((folder / CARD).read_text())
            booster = xgb.Booster(model_file=folder / BOOSTER)
        except OSError as error:
            raise InputError(f"event model {folder}: {error.strerror or error}") from None
        except (ValueError, xgb.core.XGBoostError) as error:
            raise InputError(f"event model {folder}: {str(error).splitlines()[0]}") from None
        if card.get("format") != FORMAT:
            raise InputError(
                f"event model {folder}: format {card.get('format')}, this version reads {FORMAT}"
            )
        unknown = [name for name in card["names"] if name not in NAMES]
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
        fields = ("format", "name", "version", "delay_days", "calibration", "names", "usual")
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
        )


def margins(booster: xgb.Booster, x_nF: np.ndarray) -> np.ndarray:
    """(n,) log-odds of the trees."""
    # Columns come in the booster's order: to compare 400 names takes longer than to score.
    return booster.inplace_predict(x_nF, predict_type="margin", validate_features=False)


def probability(log_odds_n: np.ndarray) -> np.ndarray:
    """Above 0 and below 1, however sure the trees are."""
    return 1 / (1 + np.exp(-np.clip(log_odds_n.astype(np.float64), -_SURE, _SURE)))
