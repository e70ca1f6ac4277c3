"""Options and arguments of the commands of `python -m lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from liveprofile.resources import ROOT

CheckpointOption = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        metavar="FOLDER",
        help="Model checkpoint that `liveprofile model train` wrote.",
    ),
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
TestLogOption = Annotated[
    Path,
    typer.Option(
        "--test-log",
        metavar="FILE",
        help="With --part test: the JSON-lines file to which this look at the test part is appended"
        " (date, commit, recipe, figures).",
    ),
]
OptionalOutFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder for the model checkpoint. Default: the model is not saved.",
        show_default=False,
    ),
]


def day_option(name: str, help_text: str, **extra: Any) -> Any:
    """A typer option for a day written as 2018-07-25."""
    return typer.Option(name, formats=["%Y-%m-%d"], metavar="DAY", help=help_text, **extra)


TEST_LOG = ROOT / "lab/test-looks.jsonl"
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe that defines the data split.")
]
SequencesArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Item sequences of users, in the format --format.")
]
SequencesFormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="File format; s3rec: a line per user with the user's items; pairs: a line per user and"
        " item, in order of time; movielens: ratings.csv of MovieLens.",
    ),
]
TransactionsArgument = Annotated[
    Path, typer.Argument(help="Transactions of the Fraud Detection Handbook (Parquet).")
]
