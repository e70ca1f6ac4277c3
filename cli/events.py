"""`liveprofile events`: sends, decodes and maps events."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, JsonCall, MappingOption, print_json, read_settings
from cli.job import submit_command
from cli.options import Commands
from cli.progress import count_bar, print_line
from cli.rules_and_segments import check_file
from cli.submission import submit_job
from intake.decoding.registry import SchemaRegistry
from intake.decoding.service import Decoder
from intake.files import inference
from intake.files.replay import open_source, rows_estimate
from intake.files.replay import replay as send
from intake.simulator import Shop, ShopConfig
from intake.simulator.shop import write_shop
from liveprofile.attributes.event_types import event_types, read_event_types
from liveprofile.errors import InputError
from liveprofile.events.validation import RejectedError, validate
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from services.signals import stop_on_signals


def _count_option(kind: str, per_10_000: str) -> typer.models.OptionInfo:
    return typer.Option(
        min=0, help=f"Number of {kind}. Default: {per_10_000} per 10,000 users and day."
    )


def generate(
    out: Annotated[Path, typer.Option()],
    labels: Path | None = None,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    days: Annotated[int, typer.Option(min=1)] = 30,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    events_per_user_day: float = 5.0,
    takeovers: Annotated[int | None, _count_option("account takeovers", "2")] = None,
    card_tests: Annotated[int | None, _count_option("card-testing attacks", "0.5")] = None,
    rings: Annotated[int | None, _count_option("fraud rings", "0.2")] = None,
    campaigns: Annotated[int | None, _count_option("sales campaigns", "0.2")] = None,
) -> None:
    """Simulate a shop with known frauds and write its events and labels to files.

    The last line is JSON with the counts of what was written. docs/simulator.md describes the
    simulation.

    Example:
    `liveprofile events generate --out shop.jsonl --labels labels.jsonl --users 500 --days 10`

    Options:
    out FILE: Events file (.jsonl).
    labels FILE: Labels file (.jsonl). Default: no labels are written.
    users: Number of legitimate users.
    days: Number of days.
    seed: Random seed; the same seed gives the same bytes.
    events_per_user_day: Mean number of events per active user and day.
    """
    shop = Shop(
        ShopConfig(
            users=users,
            days=days,
            seed=seed,
            events_per_user_day=events_per_user_day,
            takeovers=takeovers,
            card_tests=card_tests,
            rings=rings,
            campaigns=campaigns,
        )
    )
    with count_bar("generating", days, "days") as advance:
        written = write_shop(shop, out, labels, lambda: advance(1))
    print_json(written)


def types(call: Call, file: Path | None = None, schema: bool = False) -> None:
    """Check the event types that a file declares, or print the JSON Schema of events with them.

    Exit code 2 if they have errors.

    Example: `liveprofile events types --schema`

    Options:
    file FILE: Event types (TOML). Default: event_types of the settings.
    schema: Print the schema.
    """
    path = file or product_path(call.settings.event_types)
    if schema:
        print_json(read_event_types(path).schema())
    else:
        check_file(call, path, "event_types", read_event_types)


mapping = Commands(
    name="mapping", help="Draft and check a mapping: how the columns of a file become events."
)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet.")]
SHOWN = 3  # events that a check prints


@mapping.command()
def infer(call: JsonCall, file: FileArgument, out: Path | None = None) -> None:
    """Draft a mapping of a CSV or Parquet file from the names and values of its columns.

    A comment with a question mark is at each line that needs a look. Then run `mapping check`.

    Example: `liveprofile events mapping infer shop.csv --out shop.toml`

    Options:
    out MAP.toml: File to write. Default: stdout.
    """
    draft = inference.infer(file)
    text = draft.to_toml(file.name)
    if out is None:
        call.print(draft._asdict(), text.removesuffix("\n"))
        return
    try:
        with out.open("x", encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}") from None
    codes = [code for code, meaning in draft.mapping["types"].items() if not meaning]
    what = f". Fill in what the event types {', '.join(codes)} mean, in [types]" if codes else ""
    call.print(draft._asdict(), f"{out} written, {len(draft.unsure)} lines to look at{what}")


@mapping.command()
def check(
    call: Call,
    file: FileArgument,
    map_file: Path,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000)] = 1_000,
) -> None:
    """Check the first rows of a file as events: which would the job reject, and why.

    Prints the counts and the first events and rejected ones. Connects to nothing. Exit code 1 if an
    event would be rejected.

    Example: `liveprofile events mapping check shop.csv shop.toml`

    Options:
    map_file MAP.toml: Mapping, as for `replay --mapping`.
    rows: Number of rows to check.
    """
    events, rejected, clock_ms = [], [], now_ms()
    types = event_types(call.settings).by_name
    count, reasons = 0, Counter[str]()
    for batch in open_source(file, map_file, rows):
        for payload in batch.values:
            count += 1
            try:
                validate(payload, clock_ms, call.settings.limits, types)
            except RejectedError as error:
                reason = " ".join(error.args).strip()
                reasons[reason] += 1
                rejected.append({"number": count, "reason": reason, "event": payload.decode()})
            else:
                events.append(payload.decode())
            del events[SHOWN:], rejected[SHOWN:]
    counts = {"rows": count, "valid": count - reasons.total(), "reasons": dict(reasons)}
    call.print(
        counts | {"events": events, "rejected": rejected},
        *events,
        *(f"event {e['number']} is rejected, {e['reason']}: {e['event']}" for e in rejected),
        counts,
    )
    if reasons:
        raise typer.Exit(1)


def replay(
    call: Call,
    file: Path,
    mapping: Path | None = None,
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    close_windows: bool = False,
) -> None:
    """Send a file of events to the input topic, keyed by user.

    Example: `liveprofile events replay shop.csv --mapping shop.toml --close-windows`

    Options:
    file: CSV, Parquet or JSON lines.
    mapping FILE: Mapping of the file's columns to event fields (TOML, see mappings/). Default: FILE
        holds events as JSON lines.
    limit: Maximum number of events.
    close_windows: Send heartbeats after the last event to close the open windows. Events for these
        windows that are sent later are late.
    """
    expected = rows_estimate(file, mapping)
    with count_bar(f"sending {file.name}", min(expected, limit or expected), "events") as advance:
        result = send(
            file,
            mapping,
            call.settings,
            limit=limit,
            close_windows=close_windows,
            progress=advance,
        )
    if close_windows and not result.closed:
        print_line(
            "the last windows stay open: they end in the future. Events and heartbeats that are"
            " sent then will close them (`liveprofile serve chores`)"
        )
    if _is_history(call.settings, result.last_event_time_ms):
        print_line(
            "these events are history: a job without scoring.replay = true scores them as if they"
            " happened now"
        )
    call.print(result._asdict())


def _is_history(settings: Settings, last_event_time_ms: int | None) -> bool:
    """Whether the events are too old for the job of these settings to trust their times."""
    scoring = settings.scoring
    if last_event_time_ms is None or scoring.replay or not scoring.enabled:
        return False
    return last_event_time_ms < now_ms() - scoring.max_delay_ms


def decode(call: Call) -> None:
    """Decode events in Confluent wire format and CloudEvents, until Ctrl-C or SIGTERM.

    It reads the topic `topics.encoded` and sends JSON events, keyed by user, to the input topic,
    each at least once; what cannot be decoded goes to the rejected topic with the reason. Several
    decoders share the partitions. At the end the counts are printed. docs/data-contract.md has the
    formats.

    Example: `liveprofile events decode --json`
    """
    logging.getLogger("intake.decoding").setLevel(logging.INFO)
    with closing(SchemaRegistry(call.settings.decoder)) as registry:
        decoder = Decoder.connect(call.settings, registry.reader)
        with stop_on_signals(decoder):
            counts = decoder.run()
    call.print(counts)


def bootstrap(
    call: Call, files: list[Path], mapping: MappingOption = None, savepoint_dir: str | None = None
) -> None:
    """Build the job's state from past events, for a job that then reads the input topic.

    Runs the job over a temporary topic with the events of the files, and stops it with a savepoint.
    The job that is submitted with this savepoint goes on in the input topic where the files end.

    Example: `liveprofile events bootstrap 2023-10.jsonl 2023-11.jsonl`

    Options:
    files FILE...: CSV, Parquet or JSON lines, in the order of the events.
    savepoint_dir URI: Folder for the savepoint. Default: the cluster's folder for savepoints.
    """
    from services.bootstrap import archive_variables, check_files, run

    check_files(files, mapping)
    live, file = call.settings, call.file
    variables = archive_variables(live)
    archive = read_settings(call.config, variables)
    result = run(
        live,
        archive,
        file,
        files,
        mapping,
        savepoint_dir,
        lambda job, path, arguments: submit_job(
            job, path, arguments=arguments, variables=variables
        )[0],
        print_line,
    )
    fields = result._asdict()
    call.print(fields, fields | {"to go on": f"{submit_command(call, result.savepoint)} --wait"})


def recompute_late(
    call: Call,
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    mapping: MappingOption = None,
) -> None:
    """Recompute the profiles of users with late events.

    Also those of persons with several ids: the earlier events of an alias come into the windows of
    the person, and its own are deleted. Uses events that were late by at most
    window.correction_days. Flags that would not have been raised are marked WITHDRAWN, new ones
    ADDED; no alert is sent. The job may be running, and a run may be repeated.

    Example: `liveprofile events recompute-late 2023-10.jsonl --json`

    Options:
    files [FILE]...: Archives of events from before the first record of the input topic: CSV,
        Parquet or JSON lines, in the order of the events. Default: the topic has all of them.
    """
    from offline.late_windows.run import check, run

    check(call.settings, files or [], mapping)
    result = run(call.settings, call.file, files or [], mapping, print_line)
    call.print(result)
    if result["incomplete"]:
        print_line("users are left out whose earlier events are not all there: pass archives")
