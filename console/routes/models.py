"""Cards and training curves of models."""

import asyncio
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from console.access import Operator
from console.charts import LineChart, Sample, line_chart
from console.formats import facts, words
from console.rendering import page

router = APIRouter(prefix="/models")


@router.get("")
async def models(call: Operator) -> Response:
    """The cards of the models of the settings."""
    folders = call.request.app.state.models.items()
    found = await asyncio.gather(*(asyncio.to_thread(read_model, *each) for each in folders))
    return page(call.request, "models/page.html", models=found)


# Of the columns of curves.csv, those that say how the training went.
CURVES = ("loss", "validation_loss", "validation_category_ndcg_at_10", "category_ndcg_at_10")


class ModelView(NamedTuple):
    """card: None if the checkpoint is not on this machine."""

    name: str
    version: str
    card: list[tuple[str, list[tuple[str, str]]]] | None  # sections of facts
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


def sections(card: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The single values first, then a section for each group of values."""
    single = {name: value for name, value in card.items() if not isinstance(value, dict)}
    groups = {words(name): value for name, value in card.items() if isinstance(value, dict)}
    return [(name, list(facts(each))) for name, each in ({"card": single} | groups).items() if each]


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
