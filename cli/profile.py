"""`liveprofile profile`: what the job stored about a user, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.attributes import attribute_table, user_attributes
from cli.common import (
    AtOption,
    Call,
    LimitOption,
    UserArgument,
    end_without_result,
    fields_of,
    format_utc,
    table,
    time_option,
)
from cli.progress import print_line
from liveprofile.attributes.table import AttributeTable
from liveprofile.storage import queries
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import SimilarUser, StoredProfile
from liveprofile.value_curves import values_at, values_moment_ms

if TYPE_CHECKING:
    from rich.table import Table

    from offline.occlusion import WindowEffects


def show(
    call: Call,
    user: UserArgument,
    similar: Annotated[int, typer.Option(min=0, max=100)] = 0,
    at: AtOption = None,
) -> None:
    """Show a user's current profile and attributes. Exit code 1 if unknown.

    Churn and spend are those of the moment "values as of" (JSON: values_at_ms): now, or --at, or
    the end of the last window if the model stores no curves.

    Example: `liveprofile profile show 42 --similar 5`

    Options:
    similar: Number of similar users to list.
    """
    settings, time_ms = call.settings, now_ms() if at is None else at
    with call.session() as session:
        stored = queries.profile(session, user)
        if stored is None:
            end_without_result(f"no profile of user {user!r}")
        profile = stored.at(time_ms)
        last = next(iter(queries.deltas(session, user, 1)), None)
        similar_users = (queries.similar_users(session, user, similar) if similar else None) or []
        table_of = AttributeTable(session, settings.cassandra)
        attributes = user_attributes(table_of, user, profile.profile)
    result = profile._asdict() | {
        "values_at_ms": values_moment_ms(profile.profile, profile.window_end_ms, time_ms),
        "last_change": change_sentence(last.delta) if last else None,
        "attributes": attributes,
    }
    if similar:
        result["similar"] = [fields_of(each) for each in similar_users]
    tables: list[Table | str] = []
    if attributes:
        tables.append(attribute_table(attributes))
    if similar:
        tables.append(similar_table(similar_users))
    fields = profile_fields(profile, time_ms) | {"change in the window": result["last_change"]}
    call.print(result, fields, *tables)


def similar_table(users: Sequence[SimilarUser]) -> Table | str:
    """The table of similar users, or a line that says why there is none."""
    from liveprofile.rows.profiles import NEW_USER_WINDOWS

    if users:
        return table("Similar users", users, "user_id cosine segments window_end_ms")
    return (
        "no similar users: no other user is in their index, which users enter with their"
        f" window {NEW_USER_WINDOWS + 1}"
    )


def deltas(call: Call, user: UserArgument, limit: LimitOption = 10) -> None:
    """Show how a user's latest windows changed the profile, newest first.

    Exit code 1 if there is no window.

    Example: `liveprofile profile deltas 42 --limit 3`
    """
    with call.session() as session:
        found = queries.deltas(session, user, limit)
    rows = [fields_of(each) | {"sentence": change_sentence(each.delta)} for each in found]
    columns = "window_end_ms events amount embedding_distance surprise sentence active_rules"
    call.rows(rows, columns, missing=f"no profile of user {user!r}")


def scores(call: Call, user: UserArgument, limit: LimitOption = 20) -> None:
    """Show a user's latest scored events, newest first. Exit code 1 if there is none.

    Example: `liveprofile profile scores 42 --limit 5`
    """
    with call.session() as session:
        rows = queries.scores(session, user, limit)
    columns = "event_time_ms event_id event_type amount score device_id active_rules"
    call.rows(rows, columns, missing=f"no scored event of user {user!r}")


def profile_fields(profile: StoredProfile, time_ms: int) -> dict[str, Any]:
    """The typed columns, and the first entries of each list of the JSON column."""
    details, end_ms = profile.profile, profile.window_end_ms
    values, at_end = (
        values_at(details, profile._asdict(), end_ms, each_ms) for each_ms in (time_ms, end_ms)
    )
    window = f"{format_utc(profile.window_start_ms)} to {format_utc(profile.window_end_ms)}"
    moment_ms = values_moment_ms(details, end_ms, time_ms)

    def shown(name: str, form: str) -> str:
        now, then = (f"{each[name]:{form}}" for each in (values, at_end))
        return now if now == then else f"{now} ({then} at the window's end)"

    return {
        "user": profile.user_id,
        "last window": window,
        "segments": profile.segments,
        "values as of": format_utc(moment_ms),
        "churn": shown("churn", ".1%"),
        "expected spend": shown("expected_spend", ".2f"),
        "next purchase, days": values["purchase_in_days"],
        "last purchase, days ago": profile.recency_days,
        "recent purchases": f"{profile.purchases_decayed:.2f} for {profile.amount_decayed:.2f}",
        "events": profile.events_total,
        **{
            name.replace("_", " "): _first(details.get(name))
            for name in ("category_affinity", "interests", "next_items")
        },
        "model": f"{profile.model_version}, features {profile.feature_version}",
    }


def _first(entries: Any, count: int = 5) -> list[Any]:
    """The first entries of {name: share}, [[name, share], ...] or [name, ...]."""
    listed = entries.items() if isinstance(entries, Mapping) else entries or ()
    return [
        each if isinstance(each, str) else f"{each[0]} {each[1]:.1%}"
        for each in list(listed)[:count]
    ]


NAMED_CATEGORIES = 3
SMALLEST_CHANGE = 0.005  # of a share or a probability; smaller ones are left out
SMALLEST_RATIO = 0.01  # of an amount


def change_sentence(delta: Mapping[str, Any]) -> str:
    """For example `More tea (0.0% to 10.0%); churn fell from 30.0% to 17.0%.`

    delta: the JSON column of profile_delta. The categories are those with the largest parts in the
    divergence of the shares after the window from those before.
    """
    sentence = "; ".join(_changes(delta))
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else "Little has changed."


def _changes(delta: Mapping[str, Any]) -> Iterator[str]:
    moved = (delta.get("moved_categories") or [])[:NAMED_CATEGORIES]
    for word, rises in (("more", True), ("less", False)):
        named = [
            f"{name} ({before:.1%} to {after:.1%})"
            for name, before, after in moved
            if (after > before) == rises and abs(after - before) >= SMALLEST_CHANGE
        ]
        if named:
            yield f"{word} {', '.join(named)}"
    for name, form in (("churn", ".1%"), ("expected_spend", ".2f")):
        before, after = ((delta.get(side) or {}).get(name) for side in ("before", "after"))
        if before is None or after is None:
            continue
        smallest = SMALLEST_CHANGE if form == ".1%" else SMALLEST_RATIO * max(before, after, 1.0)
        if abs(after - before) >= smallest:
            way = "rose" if after > before else "fell"
            yield f"{name.replace('_', ' ')} {way} from {before:{form}} to {after:{form}}"


def explain(
    call: Call,
    user: UserArgument,
    at: Annotated[int | None, time_option("--at")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Show which events of a window moved churn, expected spend and interests most.

    Runs the job's views over the user's events and then the model, once without each event of the
    window: shows by how much the stored value differs. Takes about a minute. Exit code 1 if there
    is no such window.

    Example: `liveprofile profile explain 42 --at 2026-11-26 --json`

    Options:
    at TIME: The last window that ended by then: 7d ago, or a time such as 2026-11-26. Default: the
        newest.
    limit: Maximum number of events for each value.
    """
    from offline.explanation import as_document, explain, model_version, stored_delta

    settings = call.settings
    version = model_version(settings)
    delta = stored_delta(settings, user, at)
    if delta is None:
        end_without_result(f"no window of user {user!r}")
    effects = explain(settings, call.file, version, delta, print_line)
    window = {"user": user, "window_end_ms": delta.window_end_ms}
    call.print(as_document(effects, delta), window, *cause_tables(effects, limit))


def cause_tables(effects: WindowEffects, limit: int) -> Iterable[Table]:
    """A table for each value: the events that move it most, and by how much."""
    served = effects.served
    titles = {
        "churn": f"Churn: {served.churn:.1%}",
        "expected_spend": f"Expected spend: {served.expected_spend:.2f}",
        "interests": "Interests: without and with it",
    }
    for name, title in titles.items():
        if name != "interests" or served.interests:
            moved = "moved_interests" if name == "interests" else name
            yield table(title, effects.strongest(name, limit), f"{EVENT} {moved}")


EVENT = "time_ms event_id event_type item category amount"
