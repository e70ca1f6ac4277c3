"""`liveprofile show`, `deltas` and `flags`: what Cassandra holds, for a person or a program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings, utc, with_state
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from liveprofile.storage.queries import Delta, Profile, SimilarUser, StoredFlag

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most this many.")]
TOP = 5


def show(
    user: UserArgument,
    similar: Annotated[
        int, typer.Option("--similar", min=0, max=100, help="List this many similar users too.")
    ] = 0,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show a user's current profile. Exit code 1 if the user is unknown."""
    from liveprofile.storage import queries
    from liveprofile.storage.connection import session_of

    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        profile = queries.profile(session, user)
        if profile is None:
            _unknown(user)
        alike = queries.similar_users(session, user, similar) if similar else []
    if json:
        found = profile._asdict()
        print_json(found | {"similar": [_as_dict(one) for one in alike]} if similar else found)
        return
    _print(profile_table(profile), *([similar_table(alike)] if similar else []))


def deltas(
    user: UserArgument,
    limit: LimitOption = 10,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a user's latest windows changed, newest first. Exit code 1 if there is none."""
    from liveprofile.storage import queries
    from liveprofile.storage.connection import session_of

    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        found = queries.deltas(session, user, limit)
    if not found:
        _unknown(user)
    if json:
        print_json([_as_dict(delta) for delta in found])
        return
    _print(delta_table(user, found))


def flags(
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Of this user only.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Of windows that end, or events that are, at this time (UTC) or later:"
            " 2017-11-26, 2017-11-26T01:00 or epoch milliseconds.",
        ),
    ] = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show risk flags, newest first. Exit code 1 if --user names an unknown user."""
    from liveprofile.storage import queries
    from liveprofile.storage.connection import session_of

    since_ms = None if since is None else parse_time_ms(since)
    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        found = queries.flags(session, user, since_ms, limit)
        if not found and user is not None and queries.profile(session, user) is None:
            _unknown(user)
    if json:
        print_json([_as_dict(flag) for flag in found])
    elif found:
        _print(flag_table(found))
    else:
        typer.echo("no risk flags")


def parse_time_ms(text: str) -> int:
    """Epoch milliseconds as digits, or ISO 8601 (no zone: UTC). Raises InputError."""
    if re.fullmatch(r"\d{9,15}", text):
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--since {text!r}: neither a time such as 2017-11-26T01:00 nor epoch milliseconds"
        ) from None
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)


def profile_table(profile: Profile) -> Table:
    """The typed columns and the head of the JSON's lists, two columns wide."""
    table = _table(f"Profile of user {profile.user_id}")
    table.show_header = False
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    more = profile.profile
    recency = (
        "none known" if profile.recency_days is None else f"{profile.recency_days:.1f} days ago"
    )
    for name, value in (
        ("last window", f"{utc(profile.window_start_ms)} to {utc(profile.window_end_ms)}"),
        ("segments", ", ".join(profile.segments) or "none"),
        ("churn", f"{profile.churn:.1%}"),
        ("expected spend", f"{profile.expected_spend:.2f}"),
        ("last purchase", recency),
        ("recent purchases", f"{profile.purchases_decayed:.2f} for {profile.amount_decayed:.2f}"),
        ("events", str(profile.events_total)),
        ("category affinity", _shares(more.get("category_affinity"))),
        ("interests", _shares(more.get("interests"))),
        ("next items", _shares(more.get("next_items"))),
        ("model", f"{profile.model_version}, features {profile.feature_version}"),
    ):
        if value:
            table.add_row(name, value)
    return table


def similar_table(users: Sequence[SimilarUser]) -> Table:
    table = _table("Similar users")
    _columns(table, "user", ">cosine", "segments", "as of")
    for user in users:
        table.add_row(
            user.user_id, f"{user.cosine:.3f}", ", ".join(user.segments), utc(user.window_end_ms)
        )
    return table


def delta_table(user_id: str, deltas: Sequence[Delta]) -> Table:
    table = _table(f"Changes of user {user_id}")
    _columns(table, "window end", ">events", ">amount", ">moved", ">surprise", "churn", "rules")
    for delta in deltas:
        table.add_row(
            utc(delta.window_end_ms),
            str(delta.events),
            f"{delta.amount:.2f}",
            f"{delta.embedding_distance:.3f}",
            f"{delta.surprise:.2f}",
            _before_after(delta.delta, "churn"),
            ", ".join(delta.active_rules),
        )
    return table


def flag_table(flags: Sequence[StoredFlag]) -> Table:
    table = _table("Risk flags")
    _columns(table, "time", "user", "severity", "reason", "message", "action", "event")
    for flag in flags:
        table.add_row(
            utc(flag.window_end_ms), flag.user_id, flag.severity, with_state(flag.reason, flag),
            flag.message, flag.action, flag.event_id,
        )  # fmt: skip
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _columns(table: Table, *names: str) -> None:
    """A name that starts with > is of numbers; those and times stay on one line."""
    for name in names:
        right = name.startswith(">")
        table.add_column(
            name.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or name in ("time", "window end", "as of", "churn"),
        )


def _print(*tables: Table) -> None:
    from rich.console import Console

    # Ids and messages are data: nothing in them is mark-up, an emoji code or a number to colour.
    console = Console(markup=False, emoji=False, highlight=False)
    for table in tables:
        console.print(table)


def _unknown(user: str) -> None:
    typer.echo(f"liveprofile: no profile of user {user!r}", err=True)
    raise typer.Exit(1)


def _as_dict(row: Any) -> dict[str, Any]:
    """A row for JSON; bytes as hexadecimal digits."""
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in row._asdict().items()
    }


def _shares(entries: Any) -> str:
    """The first of {name: share}, [[name, share], ...] or [name, ...]."""
    pairs: Iterable[Any] = entries.items() if isinstance(entries, Mapping) else entries or ()
    shown = []
    for pair in list(pairs)[:TOP]:
        if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
            shown.append(f"{pair[0]} {pair[1]:.1%}")
        else:
            shown.append(str(pair))
    return ", ".join(shown)


def _before_after(delta: Mapping[str, Any], feature: str) -> str:
    before, after = ((delta.get(when) or {}).get(feature) for when in ("before", "after"))
    if before is None or after is None:
        return ""
    return f"{before:.1%} → {after:.1%}"
