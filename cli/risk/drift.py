"""`liveprofile drift`: whether what the fraud model sees still looks like its training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings, utc
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from udfs.scoring.drift_store import Decision, State

drift = typer.Typer(
    name="drift",
    invoke_without_command=True,
    help="Whether what the fraud model sees still looks like its training data (docs/drift.md).",
)


@drift.callback()
def show(
    context: typer.Context,
    periods: Annotated[
        int, typer.Option("--periods", min=1, max=1_000, metavar="N", help="The last N of each.")
    ] = 12,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Without a command: the state by hour and by day, and the distances of the last periods."""
    if context.invoked_subcommand is not None:
        return
    from liveprofile.drift.reference import Reference
    from liveprofile.resources import product_path
    from liveprofile.storage.connection import session_of
    from udfs.scoring.drift_monitor import LENGTH_MS, scope
    from udfs.scoring.drift_store import CassandraDriftStore

    settings = read_settings(config)
    folder = product_path(settings.scoring.checkpoint)
    reference = Reference.load(folder)
    if reference is None:
        raise InputError(
            f"event model {folder} has no reference.json to go by: its drift isn't watched"
        )
    with session_of(settings.cassandra) as session:
        store = CassandraDriftStore(session, settings.cassandra, settings.scoring.score_ttl_s)
        found = {
            kind: (store.state(of), store.decisions(of, periods))
            for kind in LENGTH_MS
            for of in [scope(reference, kind)]
        }
    if json:
        print_json(
            {
                "reference": reference.version,
                **{
                    kind: {"state": _state(state), "periods": [_period(one) for one in decisions]}
                    for kind, (state, decisions) in found.items()
                },
            }
        )
        return
    for kind, (state, decisions) in found.items():
        typer.echo(f"by {kind}: {_sentence(state)}")
        if decisions:
            _print_table(decisions)


@drift.command()
def reference(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of an event-risk model.")],
    json: JsonOption = False,
) -> None:
    """Make a model's reference.json again, by the generated shops that its card names.

    The model itself stays as it is.
    """
    from cli.progress import progress
    from models.fraud.training.train_simulated import renew_reference

    with progress() as on_progress:
        made = renew_reference(folder, on_progress)
    if json:
        print_json({"reference": made.version, "events": made.events, "watched": made.features})
    else:
        typer.echo(f"reference {made.version}: {made.events} events, {len(made.features)} features")


def _state(state: State) -> dict[str, Any]:
    return {
        "drifting": state.since_ms is not None,
        "since_ms": state.since_ms,
        "decided_until_ms": state.decided_until_ms,
    }


def _period(decision: Decision) -> dict[str, Any]:
    import orjson

    return decision._asdict() | {"distances": orjson.loads(decision.distances)}


def _sentence(state: State) -> str:
    if state.decided_until_ms is None:
        return "nothing is decided yet"
    what = "no drift" if state.since_ms is None else f"drifting since {utc(state.since_ms)}"
    return f"{what}, decided until {utc(state.decided_until_ms)}"


def _print_table(decisions: list[Decision]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("start", "events", "drift", "furthest from usual (distance, limit)"):
        table.add_column(name, overflow="fold", no_wrap=name == "start")
    for decision in decisions:
        distances = _period(decision)["distances"]
        furthest = sorted(distances, key=lambda name: -_of_limit(distances[name]))[:3]
        table.add_row(
            utc(decision.start_ms), str(decision.events), "yes" if decision.drifting else "no",
            ", ".join(
                f"{name} {distances[name][0]:.2f} ({_number(distances[name][1])})"
                for name in furthest
            ),
        )  # fmt: skip
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table, soft_wrap=not console.is_terminal)


def _of_limit(distance: list[float | None]) -> float:
    value, limit = distance
    return 0.0 if limit is None else value / limit


def _number(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.2f}"
