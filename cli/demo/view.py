"""Selects what the demo shows, and formats it for 100 columns. Nothing here does I/O."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cli.common import cell, table
from cli.demo.open_console import Opened
from cli.demo.ring import RingResult
from cli.demo.watch import last_day
from liveprofile.rules.flags import Severity
from liveprofile.storage.queries import StoredDelta, StoredFlag, StoredProfile
from services.event_audit.reconciliation import Reconciliation

WIDTH = 100
NOTHING = Text("")
# The first windows of a user change every feature, so users with a longer history are preferred.
MIN_WINDOWS = 10
LONG_BREAK_DAYS = 21
ACTIONS = {
    "notify_customer_service": "tell service team",
    "step_up_verification": "verify identity",
    "limit_trading": "limit purchases",
    "restrict_trading": "stop purchases",
}
OUTCOMES = {
    "in_topic": "records in the input topic, of which",
    "used": "used in exactly one profile",
    "duplicate": "duplicates",
    "late": "late, sent to the late topic",
    "rejected": "rejected, sent to the rejected topic with a reason",
    "heartbeats": "heartbeats that closed the last day",
    "unaccounted": "unaccounted for",
}


class UserChange(NamedTuple):
    """The change by a user's latest window. `reason`: why the user is shown."""

    reason: str
    profile: StoredProfile
    delta: StoredDelta


def largest_changes(rows: Iterable[tuple[StoredProfile, StoredDelta]]) -> list[UserChange]:
    """Returns up to three users: for each kind of change, the user with the largest change."""

    def reactivation(delta: Mapping[str, Any]) -> float:
        had_long_break = (delta["before"]["recency_days"] or 0.0) >= LONG_BREAK_DAYS
        return (delta["before"]["churn"] - delta["after"]["churn"]) + had_long_break

    def spend_increase(delta: Mapping[str, Any]) -> float:
        return delta["after"]["expected_spend"] - delta["before"]["expected_spend"]

    def taste_change(delta: Mapping[str, Any]) -> float:
        return sum(abs(after - before) for _, before, after in delta["moved_categories"])

    pairs = list(rows)
    known = [pair for pair in pairs if pair[1].delta["after"]["windows"] >= MIN_WINDOWS]
    left, chosen = known or pairs, []
    for reason, size in (
        ("came back after a long break", reactivation),
        ("is likely to spend more", spend_increase),
        ("changed taste most", taste_change),
    ):
        if left:
            largest = max(left, key=lambda pair: size(pair[1].delta))
            left = [each for each in left if each is not largest]
            chosen.append(UserChange(reason, *largest))
    return chosen


def strongest_flags(flags: Sequence[StoredFlag]) -> list[StoredFlag]:
    """Of each rule the flag with the highest value, the most severe rules first."""
    by_rule = {flag.rule_id: flag for flag in sorted(flags, key=lambda flag: flag.value)}
    return sorted(by_rule.values(), key=lambda flag: -Severity(flag.severity).rank)


def heading(text: str) -> RenderableType:
    return Group(NOTHING, Rule(Text(text, style="bold"), align="left", style="dim"))


def tour(
    changes: Sequence[UserChange],
    flags: Sequence[StoredFlag],
    account: Reconciliation,
    horizon_days: int,
) -> RenderableType:
    """The summary that the demo prints when the job has caught up. flags: all."""
    columns = {
        "day": lambda flag: last_day(flag.window_end_ms),
        "user": "user_id",
        "severity": "severity",
        "what happened": "message",
        "recommended": lambda flag: ACTIONS.get(flag.action, flag.action.replace("_", " ")),
    }
    return Group(
        heading("Profile changes by the latest day, for three households"),
        *(user_change(change, horizon_days) for change in changes),
        heading(f"{len(flags)} risk flags; the strongest of each rule"),
        table(None, strongest_flags(flags), columns),
        heading("Audit: what happened to every event"),
        NOTHING,
        accounting(account),
    )


def user_change(change: UserChange, horizon_days: int) -> RenderableType:
    """The change by a user's latest window: features, categories, segments and interests."""
    profile, delta = change.profile, change.delta
    count = delta.delta["window"]["counts"].get("purchase", 0)
    title = Text.assemble(
        (f"Household {profile.user_id} ", "bold"),
        f"{change.reason}: on {last_day(delta.window_end_ms)} it bought {count} products for"
        f" {delta.amount:,.2f}.",
    )
    before, after = delta.delta["before"], delta.delta["after"]
    rows = [
        {"": name, "before": show(before[feature]), "after": show(after[feature])}
        for name, feature, show in (
            (f"won't buy in {horizon_days} days", "churn", percent),
            (f"will spend in {horizon_days} days", "expected_spend", _number),
            ("spends per shopping day", "purchase_amount_mean", _number),
            ("buys per shopping day", "purchase_count_mean", _number),
            ("days since last purchase", "recency_days", _number),
        )
    ]
    rows += [
        {"": f"share of {name.lower()}", "before": percent(before), "after": percent(after)}
        for name, before, after in delta.delta["moved_categories"]
    ]
    likely = list(profile.profile["interests"].items())[:4]
    return Group(
        NOTHING,
        title,
        table(None, rows, {"": "", "before": "before", "after": "after"}),
        Text(f"segments: {', '.join(profile.segments) or 'none'}"),
        Text(f"likely next: {', '.join(f'{name.lower()} {percent(p)}' for name, p in likely)}"),
    )


def accounting(account: Reconciliation) -> RenderableType:
    """How many records of the input topic had each outcome, and the verdict of the audit."""
    made = Table.grid(padding=(0, 2))
    made.add_column(justify="right")
    for name, outcome in OUTCOMES.items():
        made.add_row(f"{getattr(account, name):,}", outcome)
    verdict, style = "Every record is accounted for.", "green"
    if not account.ok:
        verdict, style = "Not every record is accounted for", "red"
        verdict += ": see liveprofile events audit --json"
    return Group(made, Text(verdict, style=style))


def ring(result: RingResult) -> RenderableType:
    data = result.first_alert["data"]
    return Text.assemble(
        f"First alert after purchase {result.first_alert_purchases} of {result.purchases},",
        f" {result.first_alert_ms:.0f} ms after it was sent: ",
        (data["message"], "bold"),
        f" → {ACTIONS[data['action']]}. {result.users_flagged} accounts were flagged.",
    )


def pairs(title: str, entries: Iterable[tuple[str, str]]) -> RenderableType:
    """Commands or pages to try next: each, and what it shows."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="bold")
    for entry in entries:
        made.add_row(*entry)
    return Group(heading(title), NOTHING, made)


def console_access(opened: Opened) -> RenderableType:
    """Where the console is, how to sign in, and pages worth a look."""
    entries = [(opened.url, "opened in the browser" if opened.in_browser else "open it")]
    entries += [(f"{opened.url}{path}", shows) for path, shows in opened.pages]
    return Group(
        pairs("The console runs, with the data of the demo (docs/console.md)", entries),
        NOTHING,
        Text("Everybody on this machine may read. To write, sign in there with this key (admin):"),
        Text(opened.key, style="bold", no_wrap=True, overflow="ignore"),
    )


def percent(value: float | None) -> str:
    if value is None:
        return "-"
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def _number(value: float | None) -> str:
    return cell("", value)
