"""Cards and training curves of models, and which user model is in force."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from console.charts import LineChart, Sample, line_chart
from console.formats import EMPTY, number, words
from liveprofile.units import SECOND_MS
from udfs.profile.deployment import KEPT_DEPLOYMENTS, Deployment, ModelReference, UserModels

MAX_LIST_ITEMS = 8
FACT_DECIMALS = 6
# Of the columns of curves.csv, those that say how the training went.
CURVES = ("loss", "validation_loss", "validation_category_ndcg_at_10", "category_ndcg_at_10")


class CardSection(NamedTuple):
    name: str
    facts: list[tuple[str, str]]


class ModelView(NamedTuple):
    """card: None if the checkpoint is not on this machine."""

    name: str
    version: str
    card: list[CardSection] | None
    curves: list[tuple[str, LineChart]]


def read_model(name: str, folder: Path) -> ModelView:
    """Reads card.json and curves.csv. Blocks."""
    try:
        card = orjson.loads((folder / "card.json").read_bytes())
    except OSError:
        return ModelView(name, "", None, [])
    try:
        with (folder / "curves.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        rows = []
    return ModelView(name, str(card.get("version", "")), sections(card), curves(rows))


def sections(card: Mapping[str, Any]) -> list[CardSection]:
    """The single values first, then a section for each group of values."""
    single = [(words(k), _written(v)) for k, v in card.items() if not isinstance(v, dict)]
    groups = [CardSection(words(k), list(_flat(v))) for k, v in card.items() if isinstance(v, dict)]
    return [CardSection("card", single), *(group for group in groups if group.facts)]


def curves(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, LineChart]]:
    """A chart for each of CURVES that the table has, by epoch."""
    found = []
    for name in CURVES:
        values = [
            (int(float(row["epoch"])), float(row[name])) for row in rows if row.get(name, "") != ""
        ]
        samples = [Sample(epoch, value, f"epoch {epoch}: {value:g}") for epoch, value in values]
        lowest = min((value for _, value in values), default=0.0)
        chart = line_chart(samples, y_min=lowest, written=lambda epoch: f"epoch {epoch}")
        if chart is not None:
            found.append((words(name), chart))
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{words(key)}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}, ")
        else:
            yield name, _written(value)


def _written(value: Any) -> str:
    match value:
        case bool() | None:
            return str(value).lower()
        case int() | float():
            return number(value, FACT_DECIMALS)
        case list():
            shown = ", ".join(map(_written, value[:MAX_LIST_ITEMS]))
            rest = len(value) - MAX_LIST_ITEMS
            return f"{shown} and {rest} more" if rest > 0 else shown or "none"
    return str(value)


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
