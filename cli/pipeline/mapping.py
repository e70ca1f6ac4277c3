"""`liveprofile events mapping`: drafts and checks the mapping of a file to events."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from cli.options import Commands
from liveprofile.errors import InputError

mapping = Commands(
    name="mapping",
    help="Draft and check a mapping: how the columns of a file become events.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet.")]


@mapping.command()
def infer(
    file: FileArgument,
    out: Path | None = None,
    json: JsonOption = False,
) -> None:
    """Draft a mapping of a CSV or Parquet file from the names and values of its columns.

    A comment with a question mark is at each line that needs a look. Then run `mapping check`.

    Example: `liveprofile events mapping infer shop.csv --out shop.toml`

    Options:
    out MAP.toml: File to write. Default: stdout.
    """
    from liveprofile.ingest import inference

    draft = inference.infer(file)
    text = draft.to_toml(file.name)
    if out is not None:
        try:
            with out.open("x", encoding="utf-8") as written:
                written.write(text)
        except OSError as error:
            raise InputError(f"{out}: {error.strerror}") from None
    if json:
        print_json(draft._asdict())
    elif out is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{out} written, {len(draft.unsure)} lines to look at")


@mapping.command()
def check(
    file: FileArgument,
    map_file: Path,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000)] = 1_000,
    shown: Annotated[int, typer.Option("--show", min=0, max=1_000)] = 3,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show the first rows of a file as events, and which the job would reject and why.

    Connects to nothing. Exit code 1 if an event would be rejected.

    Example: `liveprofile events mapping check shop.csv shop.toml`

    Options:
    map_file MAP.toml: Mapping, as for `replay --mapping`.
    rows: Number of rows to check.
    shown: Number of events to print.
    """
    from liveprofile.ingest.preview import rejection
    from liveprofile.ingest.replay import open_source

    settings = read_settings(config)
    batches, translator = open_source(file, map_file, rows)
    events, rejected, now_ms = [], [], time.time_ns() // 1_000_000
    count, reasons = 0, Counter[str]()
    for batch in batches:
        for payload in translator.translate(batch).values:
            count += 1
            if (found := rejection(payload, now_ms, settings.limits)) is None:
                events += [payload.decode()] * (len(events) < shown)
                continue
            reason = " ".join(found).strip()
            reasons[reason] += 1
            if len(rejected) < shown:
                rejected.append({"number": count, "reason": reason, "event": payload.decode()})
    valid = count - reasons.total()
    if json:
        counts = {"rows": count, "valid": valid, "reasons": dict(reasons)}
        print_json(counts | {"events": events, "rejected": rejected})
    else:
        for event in events:
            typer.echo(event)
        for each in rejected:
            typer.echo(f"event {each['number']} is rejected, {each['reason']}: {each['event']}")
        typer.echo(f"{valid} of {count} rows are valid events", err=True)
        for reason, number in reasons.most_common():
            typer.echo(f"{number} rows: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)
