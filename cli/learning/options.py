"""Options that several learning commands share."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

RowsOption = Annotated[
    Path,
    typer.Option(
        "--rows",
        metavar="PATH",
        help="Training rows: Parquet file or folder that `liveprofile model backfill` wrote.",
    ),
]
CheckpointOption = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        metavar="FOLDER",
        help="Model checkpoint that `liveprofile model train` wrote.",
    ),
]
OutFolderOption = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder for the model checkpoint.")
]
ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        metavar="FILE",
        help="TOML file that overrides values of the recipe, such as one of `liveprofile model"
        " tune`.",
    ),
]
PartOption = Annotated[
    Literal["validation", "test"],
    typer.Option(
        "--part", help="Part of the rows: validation to compare choices, test for the final result."
    ),
]
TEST_LOG = Path("test-looks.jsonl")
TestLogOption = Annotated[
    Path,
    typer.Option(
        "--test-log",
        metavar="FILE",
        help="With --part test: the JSON-lines file to which this look at the test part is appended"
        " (date, commit, recipe, figures).",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Device; auto: a GPU if there is one."),
]

DayOption = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]
