"""Shows whether the fraud model's input has drifted from its training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, format_utc, print_json, read_settings
from cli.options import Commands
from cli.tables import new_table, print_tables
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from udfs.scoring.drift_store import DriftDecision, DriftState

drift = Commands(
    name="drift",
    invoke_without_command=True,
    help="Show whether the fraud model's input has drifted from its training data (docs/drift.md)."
    "\n\nExample: `liveprofile risk drift --periods 24`",
)


@drift.callback()
def show(
    context: typer.Context,
    periods: Annotated[int, typer.Option(min=1, max=1_000)] = 12,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Without a command: show the hourly and the daily drift state and the last periods.

    Options:
    periods N: Last N hours and N days.
    """
    if context.invoked_subcommand is not None:
        return
    from liveprofile.drift.reference import DriftReference
    from liveprofile.resources import product_path
    from liveprofile.storage.connection import open_session
    from udfs.scoring.drift_monitor import PERIOD_MS, decision_scope
    from udfs.scoring.drift_store import CassandraDriftStore

    settings = read_settings(config)
    folder = product_path(settings.scoring.checkpoint)
    reference = DriftReference.load(folder)
    if reference is None:
        raise InputError(f"event model {folder} has no reference.json: its drift is not monitored")
    with open_session(settings.cassandra) as session:
        store = CassandraDriftStore(session, settings.cassandra, settings.scoring.score_ttl_s)
        by_period_kind = {
            kind: (store.state(scope), store.decisions(scope, periods))
            for kind in PERIOD_MS
            for scope in [decision_scope(reference, kind)]
        }
    if json:
        print_json(
            {
                "reference": reference.version,
                **{
                    kind: {
                        "state": _state_json(state),
                        "periods": [_decision_json(decision) for decision in decisions],
                    }
                    for kind, (state, decisions) in by_period_kind.items()
                },
            }
        )
        return
    for kind, (state, decisions) in by_period_kind.items():
        typer.echo(f"by {kind}: {_describe_state(state)}")
        if decisions:
            _print_decisions(decisions)


@drift.command()
def reference(
    folder: Path,
    json: JsonOption = False,
) -> None:
    """Rebuild a model's reference.json from the simulated shops that its model card names.

    The model itself does not change.

    Example: `liveprofile risk drift reference models/checkpoints/event-risk`

    Options:
    folder FOLDER: Model checkpoint of an event-risk model.
    """
    from cli.progress import progress
    from models.fraud.training.train_simulated import rebuild_reference

    with progress() as on_progress:
        rebuilt = rebuild_reference(folder, on_progress)
    if json:
        print_json(
            {"reference": rebuilt.version, "events": rebuilt.events, "watched": rebuilt.features}
        )
    else:
        typer.echo(
            f"reference {rebuilt.version}: {rebuilt.events} events,"
            f" {len(rebuilt.features)} features"
        )


def _state_json(state: DriftState) -> dict[str, Any]:
    return {
        "drifting": state.since_ms is not None,
        "since_ms": state.since_ms,
        "decided_until_ms": state.decided_until_ms,
    }


def _decision_json(decision: DriftDecision) -> dict[str, Any]:
    import orjson

    return decision._asdict() | {"distances": orjson.loads(decision.distances)}


def _describe_state(state: DriftState) -> str:
    if state.decided_until_ms is None:
        return "no period is evaluated yet"
    if state.since_ms is None:
        verdict = "no drift"
    else:
        verdict = f"drifting since {format_utc(state.since_ms)}"
    return f"{verdict}, evaluated until {format_utc(state.decided_until_ms)}"


def _print_decisions(decisions: list[DriftDecision]) -> None:
    table = new_table("start", "events", "drift", "largest distances (distance, limit)")
    for decision in decisions:
        table.add_row(
            format_utc(decision.start_ms),
            str(decision.events),
            "yes" if decision.drifting else "no",
            ", ".join(
                f"{each.name} {each.value:.2f} ({_format_limit(each.limit)})"
                for each in decision.relative[:3]
            ),
        )
    print_tables(table)


def _format_limit(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.2f}"
