"""`liveprofile catalogue`: items that a model never saw, by vectors of their texts or images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.common import JsonOption, print_fields, print_json
from cli.progress import progress
from models.profile.recipes import recipe

catalogue = typer.Typer(
    name="catalogue",
    no_args_is_help=True,
    help="Teach a model items that it never saw, by vectors of their texts, images or voices. The"
    " catalogue is Parquet: item_id, and lists of numbers in columns that end in _embedding. It"
    " must describe items that the model knows too.",
)

CatalogueOption = Annotated[
    Path,
    typer.Option("--catalogue", metavar="FILE", help="Parquet with the vectors of all items."),
]


@catalogue.command()
def encode(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet, or .csv with a header; a row an item.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the catalogue goes, as Parquet.")
    ],
    id_column: Annotated[str, typer.Option("--id-column", metavar="NAME")] = "item_id",
    text_columns: Annotated[
        str,
        typer.Option(
            "--text-columns", metavar="NAME,NAME", help="What an item's text is joined of."
        ),
    ] = "text",
    as_json: JsonOption = False,
) -> None:
    """Make a catalogue of a file with texts: encode each with all-MiniLM-L6-v2, offline.

    Columns that end in _embedding are kept.
    """
    from models.profile.data.catalogue import encode_texts

    with progress() as on_progress:
        items = encode_texts(
            file, id_column, text_columns.split(","), out,
            lambda done, total: on_progress("texts", done, total),
        )  # fmt: skip
    (print_json if as_json else print_fields)({"file": str(out), "items": items})


@catalogue.command()
def add(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="What liveprofile train wrote.")
    ],
    file: CatalogueOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder to write the checkpoint to.")
    ],
    candidates: Annotated[
        bool,
        typer.Option(
            help="Whether next items are chosen among the new ones too, which costs time for each."
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Add the catalogue's items to a model, each as the items that are most like it."""
    from models.profile.data.item_side_info import add as run

    card = run(checkpoint, file, out, candidates)
    result = {
        "version": card.version,
        "folder": str(out),
        "items": card.shape["items"],
        "items_added": card.data["catalogue"]["items_added"],
    }
    (print_json if as_json else print_fields)(result)


@catalogue.command()
def evaluate(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="How the rows are parted.")],
    rows: Annotated[
        Path,
        typer.Option("--rows", metavar="PATH", help="Parquet file or folder of a backfill."),
    ],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="FOLDER", help="What liveprofile train wrote.")
    ],
    file: CatalogueOption,
    part: Annotated[
        Literal["validation", "test"],
        typer.Option("--part", help="Choose by validation; look at the test once."),
    ] = "test",
) -> None:
    """Measure how well items are ranked that training never saw, with vectors and without.

    The last line is JSON.
    """
    from models.profile.experiments.cold_start import report

    with progress() as on_progress:
        found = report(recipe(name), rows, checkpoint, file, part, on_progress)
    print_json({"recipe": name, **found})
