"""The fraud model: the probability that a single event is a fraud.

Gradient boosted trees (Chen and Guestrin 2016, arXiv:1603.02754) read the event's features. The
trees of a random forest may follow in the same booster (models.fraud.training.fit). A logistic
curve (Platt 1999, "Probabilistic outputs for support vector machines") turns the log-odds of all
trees into probabilities. The curve is monotonic, so it keeps the order of events. A model of a
shop whose frauds show in the order of events also has a Markov model (models.fraud.transitions),
which adds inputs of the trees.

Shape suffixes: n events, F features of the model, E of all events.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import xgboost as xgb

from liveprofile.drift.reference import DriftReference
from liveprofile.errors import InputError
from liveprofile.features.entity import COLUMN_OF, EventLists, features_from_lists
from models.fraud.transitions import STATES, TransitionModel

FORMAT = 2
CARD_FILE, TREES_FILE, TRANSITIONS_FILE = "card.json", "model.ubj", "transitions.f32"
ANY_TYPE = "any"
_MAX_LOG_ODDS = 30.0  # log-odds


class Calibration(NamedTuple):
    """Platt scaling: calibrated log-odds = slope * log-odds of the trees + intercept."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class FraudModel:
    """Trees with their calibration."""

    name: str
    names: list[str]  # F features
    delay_days: float  # after which most labels are known; features need it
    booster: xgb.Booster
    calibration: Calibration
    # Medians of the features over legitimate training events, by event type and for ANY_TYPE. NaN:
    # unknown for all of them.
    usual: dict[str, list[float]]
    metadata: dict[str, Any]  # the card's other fields: recipe, metrics, versions
    reference: DriftReference | None = None  # None: no drift monitoring
    transitions: TransitionModel | None = None  # None: the trees read the features alone

    @cached_property
    def version(self) -> str:
        """Name and a hash of the trees, the calibration and the Markov model."""
        content = bytes(self.booster.save_raw("ubj")) + repr(tuple(self.calibration)).encode()
        if self.transitions is not None:
            content += self.transitions.ratio_SS.tobytes()
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}"

    def features(self, rows: EventLists) -> np.ndarray:
        """Returns (n, E) float64: all EVENT_FEATURES."""
        return features_from_lists(rows, self.delay_days)

    @cached_property
    def _index(self) -> list[int]:
        return [COLUMN_OF[name] for name in self.names]

    def matrix(self, features_nE: np.ndarray) -> np.ndarray:
        """Returns (n, F) float32: what the model reads of all EVENT_FEATURES."""
        return features_nE[:, self._index].astype(np.float32)

    def log_odds(self, x_nF: np.ndarray) -> np.ndarray:
        """Returns (n,) calibrated log-odds."""
        log_odds_n = trees_log_odds(self.booster, self.tree_inputs(x_nF))
        return self.calibration.slope * log_odds_n + self.calibration.intercept

    def tree_inputs(self, x_nF: np.ndarray) -> np.ndarray:
        """Returns the features, and behind them the columns of the Markov model if there is one."""
        return x_nF if self.transitions is None else self.transitions.append(x_nF, self.names)

    def score(self, x_nF: np.ndarray) -> np.ndarray:
        """Returns (n,) calibrated probabilities of fraud."""
        return probability(self.log_odds(x_nF))

    def usual_for(self, event_type: str) -> np.ndarray:
        """Returns (F,) usual features for events of a type."""
        return np.array(self.usual.get(event_type, self.usual[ANY_TYPE]))

    def save(self, folder: Path) -> None:
        """Writes trees, card and, if set, Markov model and drift reference."""
        folder.mkdir(parents=True, exist_ok=True)
        self.booster.save_model(folder / TREES_FILE)
        card = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "delay_days": self.delay_days,
            "calibration": self.calibration._asdict(),
            **self.metadata,
            "names": self.names,
            "usual": {
                event_type: [None if np.isnan(value) else float(f"{value:.6g}") for value in values]
                for event_type, values in self.usual.items()
            },
        }
        if self.transitions is not None:
            content = self.transitions.ratio_SS.tobytes()
            (folder / TRANSITIONS_FILE).write_bytes(content)
            card["transitions_sha256"] = hashlib.sha256(content).hexdigest()
        (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n")
        if self.reference is not None:
            self.reference.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Loads a model that `save` wrote. It uses one CPU thread.

        Raises InputError naming an unusable file or feature.
        """
        try:
            card = json.loads((folder / CARD_FILE).read_text())
            booster = xgb.Booster(model_file=folder / TREES_FILE)
        except OSError as error:
            raise InputError(f"fraud model {folder}: {error.strerror or error}") from None
        except (ValueError, xgb.core.XGBoostError) as error:
            raise InputError(f"fraud model {folder}: {str(error).splitlines()[0]}") from None
        if card.get("format") != FORMAT:
            raise InputError(
                f"fraud model {folder}: format {card.get('format')}, this version reads {FORMAT}"
            )
        unknown = [name for name in card["names"] if name not in COLUMN_OF]
        if unknown:
            raise InputError(f"fraud model {folder}: needs the unknown feature {unknown[0]}")
        transitions = None
        if "transitions_sha256" in card:
            transitions = _load_transitions(folder, card["transitions_sha256"])
        reference = DriftReference.load(folder)
        unknown = set(reference.features if reference else ()) - set(card["names"])
        if unknown:
            raise InputError(
                f"fraud model {folder}: its drift reference has {min(unknown)}, which is no input"
                " of the model"
            )
        # Batches are small: several threads would only wait for each other.
        booster.set_param({"nthread": 1})
        fields = {
            "format",
            "name",
            "version",
            "delay_days",
            "calibration",
            "names",
            "usual",
            "transitions_sha256",
        }
        return cls(
            card["name"],
            card["names"],
            card["delay_days"],
            booster,
            Calibration(**card["calibration"]),
            {
                event_type: [np.nan if value is None else value for value in values]
                for event_type, values in card["usual"].items()
            },
            {name: value for name, value in card.items() if name not in fields},
            reference,
            transitions,
        )


def _load_transitions(folder: Path, sha256: str) -> TransitionModel:
    file = folder / TRANSITIONS_FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"fraud model {file}: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != sha256 or len(content) != 4 * STATES**2:
        raise InputError(f"fraud model {file}: is not the file that its card names")
    return TransitionModel(np.frombuffer(content, np.float32).reshape(STATES, STATES))


def trees_log_odds(booster: xgb.Booster, x_nF: np.ndarray) -> np.ndarray:
    """Returns (n,) uncalibrated log-odds of the trees."""
    # The columns are in the booster's order. To compare 400 names takes longer than to score.
    return booster.inplace_predict(x_nF, predict_type="margin", validate_features=False)


def probability(log_odds_n: np.ndarray) -> np.ndarray:
    """Converts log-odds to probabilities, strictly between 0 and 1."""
    return 1 / (1 + np.exp(-np.clip(log_odds_n.astype(np.float64), -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
