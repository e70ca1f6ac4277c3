"""`liveprofile events recompute-late`: brings late events into the profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    MappingOption,
    config_file,
    print_fields,
    print_json,
    read_settings,
)
from cli.progress import print_line


def recompute_late(
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    mapping: MappingOption = None,
    work: Path | None = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Recompute the profiles of users with late events, and keep what was stored before.

    Also those of persons with several ids (`liveprofile identity merge`): the earlier events of an
    alias come into the windows of the person, and the alias's own windows are deleted. Uses the
    events of the late topic that were late by at most window.correction_days. Corrected deltas have
    a revision, and the old ones stay in the table replaced_delta. Flags that would not have been
    raised are marked WITHDRAWN, new ones ADDED; no alert is sent. The job may be running, and a run
    may be repeated.

    Example: `liveprofile events recompute-late` or
    `liveprofile events recompute-late 2023-10.jsonl --json`

    Options:
    files [FILE]...: Archives of events from before the first record of the input topic: CSV,
        Parquet or JSON lines, in the order of the events. Default: the topic has all of them.
    work FOLDER: Run on the cluster at flink.rest_url, whose machines see this folder, and work in
        it. Default: an embedded Flink and a temporary folder.
    """
    from offline.late_windows.run import check_arguments, check_definitions, run

    check_arguments(files or [], mapping, work)
    settings = read_settings(config)
    check_definitions(settings)
    result = run(settings, config_file(config), files or [], mapping, work, print_line)
    if json:
        print_json(result)
    else:
        print_fields(result)
        if result["incomplete"]:
            typer.echo(
                f"{result['incomplete']} users are left out, because their earlier events are not"
                " all there: pass archives of them."
            )
