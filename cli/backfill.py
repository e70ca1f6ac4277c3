"""`liveprofile model backfill`: makes training rows with the job's own SQL views."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.common import Call, FaultReporter, MappingOption
from cli.progress import print_line
from liveprofile.errors import InputError


def backfill(
    call: Call,
    rows: Annotated[Path, typer.Option()],
    file: Annotated[Path | None, typer.Argument()] = None,
    mapping: MappingOption = None,
    pipeline: Literal["profile", "scoring"] = "profile",
    labels: Path | None = None,
    embedded: bool = False,
    consents: bool = True,
) -> None:
    """Make training rows from past events, with the same SQL views as the streaming job.

    Rows of users who do not allow training now, or did not at the time of the row, are left out,
    and all rows of users who were erased.

    Example: `liveprofile model backfill shop.csv --mapping shop.toml --rows rows`

    Options:
    rows FOLDER: Folder for the Parquet files, a subfolder per month.
    file: Events: CSV, Parquet or JSON lines. Default: the current content of the input topic.
    pipeline: profile: one row per user and window, for `train RECIPE`. scoring: one row per scored
        event, for `train event-risk`.
    labels FILE: With --pipeline scoring: file of labels, as for `risk feedback`. Default: the
        current content of the topic risk-feedback.
    embedded: Run in an embedded Flink instead of the cluster at flink.rest_url.
    consents: Leave out users who do not allow training (topic user-consents) or were erased
        (user-erasures). --no-consents is for events that are not of this shop's users.
    """
    from liveprofile.feeds.users import read_consents, read_erasures
    from offline import backfill as runner

    if labels is not None and pipeline != "scoring":
        raise InputError("--labels needs --pipeline scoring: the profile pipeline has no labels")
    settings = call.settings
    decisions = {}
    if consents:
        runner.check_files(rows, file, mapping, labels)
        decisions = {"consents": read_consents(settings), "erased": read_erasures(settings)}
    result = runner.backfill_rows(
        settings,
        runner.PROFILE_ROWS if pipeline == "profile" else runner.SCORING_ROWS,
        rows,
        config=call.file,
        source=file,
        mapping=mapping,
        labels=labels,
        cluster=not embedded,
        on_step=print_line,
        on_rejected=FaultReporter(labels or settings.topics.feedback),
        **decisions,
    )
    call.print(asdict(result), f"{result.rows:,} rows in {result.folder}")
