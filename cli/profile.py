"""`liveprofile profile`: what the job stored about a user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.attributes import attribute_table, user_attributes
from cli.common import (
    AtOption,
    Call,
    SinceOption,
    UserArgument,
    UserOption,
    end_without_result,
    format_utc,
    name_with_rule_state,
    table,
)
from liveprofile.attributes.table import AttributeTable
from liveprofile.storage import queries
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import StoredDelta, StoredFlag, StoredProfile
from liveprofile.value_curves import values_at, values_moment_ms

LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=10_000, help="Maximum number of rows.")
]


MAX_SHARES = 5


def show(
    call: Call,
    user: UserArgument,
    similar: Annotated[int, typer.Option(min=0, max=100)] = 0,
    at: AtOption = None,
) -> None:
    """Show a user's current profile, and attributes from elsewhere. Exit code 1 if unknown.

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
        attributes = user_attributes(AttributeTable(session, settings.cassandra), user)
    result = profile._asdict() | {
        "values_at_ms": values_moment_ms(profile.profile, profile.window_end_ms, time_ms),
        "last_change": change_sentence(last.delta) if last else None,
        "attributes": {name: one._asdict() for name, one in attributes.items()},
    }
    if similar:
        result["similar"] = [_as_dict(each) for each in similar_users]
    call.print(
        result,
        profile_table(profile, time_ms, last),
        *([attribute_table(user, attributes)] if attributes else []),
        *([table("Similar users", similar_users, SIMILAR)] if similar else []),
    )


def deltas(call: Call, user: UserArgument, limit: LimitOption = 10) -> None:
    """Show how a user's latest windows changed the profile, newest first.

    Exit code 1 if there is no window.

    Example: `liveprofile profile deltas 42 --limit 3`
    """
    with call.session() as session:
        rows = queries.deltas(session, user, limit)
    if not rows:
        end_without_result(f"no profile of user {user!r}")
    call.print(
        [_as_dict(delta) | {"sentence": change_sentence(delta.delta)} for delta in rows],
        delta_table(user, rows),
    )


def scores(call: Call, user: UserArgument, limit: LimitOption = 20) -> None:
    """Show a user's latest scored events, newest first. Exit code 1 if there is none.

    Example: `liveprofile profile scores 42 --limit 5`
    """
    with call.session() as session:
        rows = queries.scores(session, user, limit)
    if not rows:
        end_without_result(f"no scored event of user {user!r}")
    call.print(
        [_as_dict(score) for score in rows], table(f"Scored events of user {user}", rows, SCORE)
    )


def flags(
    call: Call, user: UserOption = None, since: SinceOption = None, limit: LimitOption = 20
) -> None:
    """Show risk flags, newest first. Exit code 1 if --user names an unknown user.

    --since is about the end of a flag's window, or the time of its event.

    Example: `liveprofile profile flags --since 2h` or `liveprofile profile flags --user 42 --json`
    """
    with call.session() as session:
        rows = queries.flags(session, user, since, limit)
        if not rows and user is not None and queries.profile(session, user) is None:
            end_without_result(f"no profile of user {user!r}")
    call.print([_as_dict(flag) for flag in rows], flag_table(rows) if rows else "no risk flags")


def profile_table(profile: StoredProfile, time_ms: int, last: StoredDelta | None = None) -> Table:
    """A row per typed column and per list of the JSON column (its first entries).

    last: the delta of the last window, told in a sentence.
    """
    moment_ms = values_moment_ms(profile.profile, profile.window_end_ms, time_ms)
    values = values_at(profile.profile, profile._asdict(), profile.window_end_ms, time_ms)
    wait = values["purchase_in_days"]
    details = profile.profile
    window = f"{format_utc(profile.window_start_ms)} to {format_utc(profile.window_end_ms)}"
    recency = "unknown" if profile.recency_days is None else f"{profile.recency_days:.1f} days ago"
    fields = {
        "last window": window,
        "last change": change_sentence(last.delta) if last else "",
        "segments": ", ".join(profile.segments) or "none",
        "values as of": format_utc(moment_ms),
        "churn": f"{values['churn']:.1%}",
        "expected spend": f"{values['expected_spend']:.2f}",
        "next purchase": "" if wait is None else f"in about {wait:.1f} days",
        "last purchase": recency,
        "recent purchases": f"{profile.purchases_decayed:.2f} for {profile.amount_decayed:.2f}",
        "events": profile.events_total,
        "category affinity": _format_shares(details.get("category_affinity")),
        "interests": _format_shares(details.get("interests")),
        "next items": _format_shares(details.get("next_items")),
        "model": f"{profile.model_version}, features {profile.feature_version}",
    }
    rows = [(name, value) for name, value in fields.items() if value or value == 0]
    made = table(f"Profile of user {profile.user_id}", rows, {"id": "{[0]}", "": "{[1]}"})
    made.show_header = False
    made.columns[0].style = "bold"
    return made


SIMILAR = {
    "user": "{.user_id}",
    ">cosine": "{.cosine:.3f}",
    "segments": lambda user: ", ".join(user.segments),
    "as of": lambda user: format_utc(user.window_end_ms),
}
SCORE = {
    "time": lambda score: format_utc(score.event_time_ms),
    "event": "{.event_id}",
    "type": "{.event_type}",
    ">amount": "{.amount:.2f}",
    ">score": "{.score:.4f}",
    "device": lambda score: score.device_id,
    "rules": lambda score: ", ".join(score.active_rules),
}


def delta_table(user_id: str, deltas: Sequence[StoredDelta]) -> Table:
    columns = {
        "window end": lambda delta: format_utc(delta.window_end_ms),
        ">events": "{.events}",
        ">amount": "{.amount:.2f}",
        ">moved": "{.embedding_distance:.3f}",
        ">surprise": "{.surprise:.2f}",
        "what changed": lambda delta: change_sentence(delta.delta),
        "rules": lambda delta: ", ".join(delta.active_rules),
    }
    return table(f"Changes of user {user_id}", deltas, columns)


def flag_table(flags: Sequence[StoredFlag]) -> Table:
    columns = {
        "flag": "{.flag_id}",
        "time": lambda flag: format_utc(flag.window_end_ms),
        "user": "{.user_id}",
        "severity": "{.severity}",
        "reason": lambda flag: name_with_rule_state(flag.reason, flag),
        "message": "{.message}",
        "action": "{.action}",
        "event": "{.event_id}",
    }
    return table("Risk flags", flags, columns)


def _as_dict(row: Any) -> dict[str, Any]:
    """A row for JSON; bytes become hexadecimal digits."""
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in row._asdict().items()
    }


def _format_shares(entries: Any) -> str:
    """Formats the first entries of {name: share}, [[name, share], ...] or [name, ...]."""
    pairs: Iterable[Any] = entries.items() if isinstance(entries, Mapping) else entries or ()
    formatted = []
    for pair in list(pairs)[:MAX_SHARES]:
        if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
            formatted.append(f"{pair[0]} {pair[1]:.1%}")
        else:
            formatted.append(str(pair))
    return ", ".join(formatted)


NAMED_CATEGORIES = 3


SMALLEST_CHANGE = 0.005  # of a share or a probability; smaller ones are left out


SMALLEST_RATIO = 0.01  # of an amount


def change_sentence(delta: Mapping[str, Any]) -> str:
    """For example `More tea (0.0% to 10.0%); churn fell from 30.0% to 17.0%.`

    delta: the JSON column of profile_delta. The categories are those with the largest parts in the
    divergence of the shares after the window from those before.
    """
    parts = [*_categories(delta), *_churn(delta), *_spend(delta)]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else "Little has changed."


def _categories(delta: Mapping[str, Any]) -> Iterator[str]:
    moved = (delta.get("moved_categories") or [])[:NAMED_CATEGORIES]
    for word, rises in (("more", True), ("less", False)):
        named = [
            f"{name} ({before:.1%} to {after:.1%})"
            for name, before, after in moved
            if (after > before) == rises and abs(after - before) >= SMALLEST_CHANGE
        ]
        if named:
            yield f"{word} {', '.join(named)}"


def _churn(delta: Mapping[str, Any]) -> Iterator[str]:
    before, after = _both(delta, "churn")
    if before is not None and after is not None and abs(after - before) >= SMALLEST_CHANGE:
        yield f"churn {_direction(before, after)} from {before:.1%} to {after:.1%}"


def _spend(delta: Mapping[str, Any]) -> Iterator[str]:
    before, after = _both(delta, "expected_spend")
    if before is None or after is None:
        return
    if abs(after - before) >= SMALLEST_RATIO * max(before, after, 1.0):
        yield f"expected spend {_direction(before, after)} from {before:.2f} to {after:.2f}"


def _both(delta: Mapping[str, Any], feature: str) -> tuple[float | None, float | None]:
    return tuple((delta.get(side) or {}).get(feature) for side in ("before", "after"))


def _direction(before: float, after: float) -> str:
    return "rose" if after > before else "fell"
