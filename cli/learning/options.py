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
OutFolderOption = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder for the model checkpoint.")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Device; auto: a GPU if there is one."),
]

DayOption = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]
