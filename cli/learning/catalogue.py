"""`liveprofile model catalogue`: adds items without training data to a model, by their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import JsonOption, print_fields, print_json
from cli.learning.options import (
    TEST_LOG,
    CheckpointOption,
    OutFolderOption,
    PartOption,
    RowsOption,
    TestLogOption,
)
from cli.options import Commands
from cli.progress import progress
from models.profile.recipes import recipe

catalogue = Commands(
    name="catalogue",
    help="Add items without training data to a model, by vectors of their texts, images or voice"
    " recordings. The catalogue is a Parquet file with item_id and list columns whose names end in"
    " _embedding. It must also describe items that the model knows.",
)

CatalogueOption = Annotated[
    Path,
    typer.Option("--catalogue", metavar="FILE", help="Parquet file with the vectors of all items."),
]


@catalogue.command()
def encode(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Items, one per row: Parquet, or .csv with a header line."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Catalogue to write (Parquet).")
    ],
    id_column: Annotated[
        str, typer.Option("--id-column", metavar="NAME", help="Column with the item id.")
    ] = "item_id",
    text_columns: Annotated[
        str,
        typer.Option(
            "--text-columns",
            metavar="NAME,NAME",
            help="Columns whose texts are joined to the item's text.",
        ),
    ] = "text",
    as_json: JsonOption = False,
) -> None:
    """Encode the texts of items with all-MiniLM-L6-v2 (offline) and write a catalogue.

    Columns of FILE whose names end in _embedding are copied.

    Example: `liveprofile model catalogue encode items.csv --out catalogue.parquet`
    """
    from models.profile.data.catalogue import encode_texts

    with progress() as on_progress:
        items = encode_texts(
            file,
            id_column,
            text_columns.split(","),
            out,
            lambda done, total: on_progress("texts", done, total),
        )
    (print_json if as_json else print_fields)({"file": str(out), "items": items})


@catalogue.command()
def add(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Model checkpoint that `liveprofile model train` wrote."
        ),
    ],
    file: CatalogueOption,
    out: OutFolderOption,
    candidates: Annotated[
        bool,
        typer.Option(
            help="Whether the new items can be recommended as next items; each one adds scoring"
            " time."
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Add items to a model, each represented by the known items closest to it.

    Example: `liveprofile model catalogue add models/shop-1 --catalogue catalogue.parquet
    --out models/shop-2`
    """
    from models.profile.data.item_side_info import add_catalogue_items

    card = add_catalogue_items(checkpoint, file, out, candidates)
    result = {
        "version": card.version,
        "folder": str(out),
        "items": card.shape["items"],
        "items_added": card.data["catalogue"]["items_added"],
    }
    (print_json if as_json else print_fields)(result)


@catalogue.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe that defines the data split.")
    ],
    rows: RowsOption,
    checkpoint: CheckpointOption,
    file: CatalogueOption,
    part: PartOption = "validation",
    test_log: TestLogOption = TEST_LOG,
) -> None:
    """Measure the ranking of items without training data, with and without their vectors.

    The last line is JSON.

    Example: `liveprofile model catalogue evaluate general --rows rows --checkpoint models/shop-1
    --catalogue catalogue.parquet`
    """
    from models.profile.evaluation import look_log
    from models.profile.experiments.cold_start import cold_start_report

    def measure() -> dict[str, Any]:
        with progress() as on_progress:
            return cold_start_report(recipe(name), rows, checkpoint, file, part, on_progress)

    report = measure() if part == "validation" else look_log.logged(test_log, name, measure)
    print_json({"recipe": name, **report})
