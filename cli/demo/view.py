"""Selects what the demo shows, and formats it for 100 columns. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cli.demo.open_console import Opened
from cli.demo.ring import RingResult
from cli.demo.watch import SHOWN, Snapshot
from liveprofile.audit.reconciliation import Reconciliation
from liveprofile.rules.flags import Severity
from liveprofile.storage.queries import StoredDelta, StoredFlag, StoredProfile

WIDTH = 100
SEVERITY_STYLE = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}
NOTHING = Text("")
FLAGS_PER_RULE = 2
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
LEFT, RIGHT, CENTER = ({"justify": each, "min_width": 1} for each in ("left", "right", "center"))
BEFORE_AFTER = {"before": RIGHT, " ": CENTER, "after": RIGHT}
CUT = {"no_wrap": True, "overflow": "ellipsis"}


class UserChange(NamedTuple):
    """The change by a user's latest window. `reason`: why the user is shown."""

    reason: str
    profile: StoredProfile
    delta: StoredDelta


def largest_changes(rows: Iterable[tuple[StoredProfile, StoredDelta]]) -> list[UserChange]:
    """Returns up to three users: for each kind of change, the user with the largest change."""

    def sides(pair: tuple[StoredProfile, StoredDelta]) -> tuple[dict[str, Any], dict[str, Any]]:
        return pair[1].delta["before"], pair[1].delta["after"]

    def reactivation(pair: tuple[StoredProfile, StoredDelta]) -> float:
        before, after = sides(pair)
        had_long_break = (before["recency_days"] or 0.0) >= LONG_BREAK_DAYS
        return (before["churn"] - after["churn"]) + had_long_break

    def spend_increase(pair: tuple[StoredProfile, StoredDelta]) -> float:
        before, after = sides(pair)
        return after["expected_spend"] - before["expected_spend"]

    def taste_change(pair: tuple[StoredProfile, StoredDelta]) -> float:
        moved = pair[1].delta["moved_categories"]
        return sum(abs(after - before) for _, before, after in moved)

    pairs = list(rows)
    left = [each for each in pairs if sides(each)[1]["windows"] >= MIN_WINDOWS] or pairs
    chosen: list[UserChange] = []
    for reason, size in (
        ("came back after a long break", reactivation),
        ("is likely to spend more", spend_increase),
        ("changed taste most", taste_change),
    ):
        if left:
            largest = max(left, key=size)
            left = [each for each in left if each is not largest]
            chosen.append(UserChange(reason, *largest))
    return chosen


def strongest_flags(flags: Sequence[StoredFlag]) -> list[StoredFlag]:
    """Returns the flags with the highest values of each rule, each of another user.

    The most severe rules come first.
    """
    by_rule: dict[str, dict[str, StoredFlag]] = {}
    for flag in sorted(flags, key=lambda flag: -flag.value):
        by_rule.setdefault(flag.rule_id, {}).setdefault(flag.user_id, flag)
    of_rules = [list(by_user.values())[:FLAGS_PER_RULE] for by_user in by_rule.values()]
    of_rules.sort(key=lambda of_rule: -Severity(of_rule[0].severity).rank)
    return [flag for of_rule in of_rules for flag in of_rule]


def heading(text: str) -> RenderableType:
    return Group(NOTHING, Rule(Text(text, style="bold"), align="left", style="dim"))


def last_day(window_end_ms: int) -> str:
    """The day (UTC) of a window that ends at midnight, such as 2017-11-26."""
    return datetime.fromtimestamp((window_end_ms - 1) / 1_000, UTC).strftime("%Y-%m-%d")


def live(snapshot: Snapshot, sent: int, total: int, horizon_days: int) -> RenderableType:
    """The live view of the replay. Its height is constant, so the terminal does not scroll."""
    counts = (
        ("sent to Kafka", sent, ""),
        ("read by Flink", min(snapshot.read, sent), " at its last checkpoint"),
        ("in profiles", snapshot.used, f", {sent - snapshot.used:,} behind"),
    )
    bars = [
        (name, ProgressBar(total, count, 40), f"{count:,}{note}") for name, count, note in counts
    ]
    bars.append(("profiles", _profile_rate(snapshot), _closed_days(snapshot)))
    latest = [
        (
            last_day(delta.window_end_ms),
            delta.user_id,
            _purchases(delta),
            " → ".join(percent(delta.delta[side]["churn"]) for side in ("before", "after")),
            *(
                f"{'↑' if after > before else '↓'} {category.lower()}"
                for category, before, after in delta.delta["moved_categories"][:1]
            ),
        )
        for delta in snapshot.latest
    ]
    columns = {
        "day": {"width": 10},
        "household": {"width": 10},
        "bought": {"width": 24} | CUT,
        f"won't buy in {horizon_days} days": {"width": 20} | CUT,
        "largest taste change": {"width": 25} | CUT,
    }
    return Group(
        _grid(bars, {"width": 16}, {"width": 40}, {}),
        NOTHING,
        _table(latest + [()] * (SHOWN - len(latest)), columns, "Latest profiles"),
        NOTHING,
        Text(f"Risk flags: {snapshot.flags}", style="bold"),
        *map(_alert_line, snapshot.latest_flags),
        *[NOTHING] * (SHOWN - len(snapshot.latest_flags)),
    )


def plain_line(snapshot: Snapshot, sent: int, seconds: float) -> str:
    """The live view as one line, for output without a terminal."""
    parts = (
        f"{sent:,} sent",
        f"{min(snapshot.read, sent):,} read",
        f"{snapshot.used:,} in profiles; {_profile_rate(snapshot)}",
        f"{snapshot.flags} flags",
        _closed_days(snapshot),
    )
    return f"  {seconds:4.0f} s  " + ", ".join(filter(None, parts))


def _profile_rate(snapshot: Snapshot) -> str:
    return f"{snapshot.profiles:,} written, {snapshot.profiles_per_s:,.0f} per second"


def _closed_days(snapshot: Snapshot) -> str:
    return f"days closed up to {last_day(snapshot.closed_ms)}" if snapshot.closed_ms else ""


def _alert_line(alert: Mapping[str, Any]) -> Text:
    data = alert["data"]
    end_ms = round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)
    line = Text(f"  {last_day(end_ms)}  household {alert['subject']:<5}", no_wrap=True)
    line.append(f" {data['severity']:<7}", SEVERITY_STYLE.get(data["severity"], ""))
    line.append(data["message"])
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def tour(
    changes: Sequence[UserChange],
    flags: Sequence[StoredFlag],
    account: Reconciliation,
    horizon_days: int,
) -> RenderableType:
    """The summary that the demo prints when the job has caught up. flags: all."""
    shown = [
        (
            last_day(flag.window_end_ms),
            flag.user_id,
            Text(flag.severity, style=SEVERITY_STYLE.get(flag.severity, "")),
            flag.message,
            ACTIONS.get(flag.action, flag.action.replace("_", " ")),
        )
        for flag in strongest_flags(flags)
    ]
    whole, fold = {"no_wrap": True}, {"overflow": "fold"}
    columns = {"day": whole, "user": whole, "severity": whole, "what happened": fold}
    return Group(
        heading("Profile changes by the latest day, for three households"),
        *(user_change(change, horizon_days) for change in changes),
        heading(f"{len(flags)} risk flags; the strongest of each rule"),
        NOTHING,
        _table(shown, columns | {"recommended": fold}),
        heading("Audit: what happened to every event"),
        NOTHING,
        accounting(account),
    )


def user_change(change: UserChange, horizon_days: int) -> RenderableType:
    """The change by a user's latest window: features, categories, segments and interests."""
    profile, delta = change.profile, change.delta
    title = Text.assemble(
        (f"Household {profile.user_id} ", "bold"),
        f"{change.reason}: on {last_day(delta.window_end_ms)} it bought {_purchases(delta)}.",
    )
    before, after = delta.delta["before"], delta.delta["after"]
    numbers = [
        (name, show(before[feature]), "→", show(after[feature]))
        for name, feature, show in (
            (f"won't buy in {horizon_days} days", "churn", percent),
            (f"will spend in {horizon_days} days", "expected_spend", money),
            ("spends per shopping day", "purchase_amount_mean", money),
            ("buys per shopping day", "purchase_count_mean", number),
            ("days since last purchase", "recency_days", number),
        )
    ]
    up, down = Text("↑", style="green"), Text("↓", style="magenta")
    categories = [
        (name.lower(), percent(before), up if after > before else down, percent(after))
        for name, before, after in delta.delta["moved_categories"]
    ]
    likely = list(profile.profile["interests"].items())[:4]
    summary = [
        ("segments", ", ".join(profile.segments) or "none"),
        ("likely next", ", ".join(f"{name.lower()} {percent(share)}" for name, share in likely)),
    ]
    tables = [
        _table(numbers, {"": {"width": 25}} | BEFORE_AFTER),
        _table(categories, {"share of taste": {"width": 28} | CUT} | BEFORE_AFTER),
    ]
    grid = _grid(summary, {"width": 25}, {"width": WIDTH - 29})
    return Group(NOTHING, title, Columns(tables, padding=(0, 3)), grid)


def accounting(account: Reconciliation) -> RenderableType:
    """How many records of the input topic had each outcome, and the verdict of the audit."""
    rows = [(f"{getattr(account, name):,}", outcome) for name, outcome in OUTCOMES.items()]
    verdict, style = "Every record is accounted for.", "green"
    if not account.ok:
        verdict, style = "Not every record is accounted for", "red"
        verdict += ": see liveprofile events audit --json"
    return Group(_grid(rows, RIGHT, LEFT), Text(verdict, style=style))


def ring(result: RingResult) -> RenderableType:
    data = result.first_alert["data"]
    return Text.assemble(
        f"First alert after purchase {result.first_alert_purchases} of {result.purchases},",
        f" {result.first_alert_ms:.0f} ms after it was sent: ",
        (data["message"], "bold"),
        f" → {ACTIONS[data['action']]}. {result.users_flagged} accounts were flagged.",
    )


def commands(entries: Sequence[tuple[str, str]]) -> RenderableType:
    """Commands to try next: (command, what it shows)."""
    title = heading("The stack and the job keep running; commands to try")
    return Group(title, NOTHING, _grid(entries, {"no_wrap": True, "style": "bold"}, {}))


def console_access(opened: Opened) -> RenderableType:
    """Where the console is, how to sign in, and pages worth a look."""
    entries = [(opened.url, "opened in the browser" if opened.in_browser else "open it")]
    entries += [(f"{opened.url}{path}", shows) for path, shows in opened.pages]
    return Group(
        heading("The console runs, with the data of the demo (docs/console.md)"),
        NOTHING,
        _grid(entries, {"no_wrap": True, "style": "bold"}, {}),
        NOTHING,
        Text("Everybody on this machine may read. To write, sign in there with this key (admin):"),
        Text(opened.key, style="bold", no_wrap=True, overflow="ignore"),
    )


def percent(value: float | None) -> str:
    if value is None:
        return "-"
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _purchases(delta: StoredDelta) -> str:
    count = delta.delta["window"]["counts"].get("purchase", 0)
    return f"{count} product{'s' if count != 1 else ''} for {money(delta.amount)}"


def _table(
    rows: Iterable[Sequence[Any]], columns: Mapping[str, Any], title: str | None = None
) -> Table:
    """columns: the name, and the options of the column."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0), header_style="dim", show_edge=False,
    )  # fmt: skip
    for name, options in columns.items():
        made.add_column(name, **options)
    for row in rows:
        made.add_row(*row)
    return made


def _grid(rows: Iterable[Sequence[Any]], *columns: Mapping[str, Any]) -> Table:
    made = Table.grid(padding=(0, 2))
    for options in columns:
        made.add_column(**options)
    for row in rows:
        made.add_row(*row)
    return made
