"""Formats the demo's data as Rich renderables of at most 100 columns. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cli.demo.open_console import Opened
from cli.demo.ring import RingResult
from cli.demo.tour import ACTIONS, ExplainedFlag, Tour, UserChange
from cli.demo.watch import SHOWN, Snapshot
from liveprofile.audit.reconciliation import Reconciliation
from liveprofile.storage.queries import StoredDelta

WIDTH = 100
SEVERITY_STYLE = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}
CATEGORY_WIDTH = 28
NOTHING = Text("")


def heading(text: str) -> RenderableType:
    return Group(NOTHING, Rule(Text(text, style="bold"), align="left", style="dim"))


def day(time_ms: int) -> str:
    """Formats epoch milliseconds as 2017-11-26 (UTC)."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d")


def last_day(window_end_ms: int) -> str:
    """The day of a window that ends at midnight."""
    return day(window_end_ms - 1)


def live(snapshot: Snapshot, sent: int, total: int, horizon_days: int) -> RenderableType:
    """The live view of the replay. Its height is constant, so the terminal does not scroll."""
    bars = Table.grid(padding=(0, 2))
    bars.add_column(width=16)
    bars.add_column(width=40)
    bars.add_column()
    for name, count, note in (
        ("sent to Kafka", sent, ""),
        ("read by Flink", min(snapshot.read, sent), " at its last checkpoint"),
        ("in profiles", snapshot.used, f", {sent - snapshot.used:,} behind"),
    ):
        bars.add_row(name, ProgressBar(total, count, 40), f"{count:,}{note}")
    bars.add_row("profiles", _profile_rate(snapshot), _closed_days(snapshot))
    return Group(
        bars,
        NOTHING,
        _latest_profiles(snapshot.latest, horizon_days),
        NOTHING,
        Text(f"Risk flags: {snapshot.flags}", style="bold"),
        *_alert_lines(snapshot.latest_flags),
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


def _latest_profiles(deltas: Sequence[StoredDelta], horizon_days: int) -> Table:
    table = _table("Latest profiles")
    for name in ("day", "household"):
        table.add_column(name, width=10)
    for name, width in (
        ("bought", 24),
        (f"won't buy in {horizon_days} days", 20),
        ("largest taste change", 25),
    ):
        table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    for delta in deltas:
        table.add_row(
            last_day(delta.window_end_ms),
            delta.user_id,
            _purchases(delta),
            _before_after(delta.delta, "churn", percent),
            _largest_taste_change(delta),
        )
    for _ in range(SHOWN - len(deltas)):
        table.add_row()
    return table


def _alert_lines(alerts: Sequence[Mapping[str, Any]]) -> list[Text]:
    lines = []
    for alert in alerts:
        data = alert["data"]
        end_ms = round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)
        line = Text(f"  {last_day(end_ms)}  household {alert['subject']:<5}", no_wrap=True)
        line.append(f" {data['severity']:<7}", SEVERITY_STYLE.get(data["severity"], ""))
        line.append(data["message"])
        line.truncate(WIDTH, overflow="ellipsis")
        lines.append(line)
    return lines + [NOTHING] * (SHOWN - len(lines))


def tour(data: Tour) -> RenderableType:
    """The summary that the demo prints when the job has caught up."""
    return Group(
        heading("Profile changes by the latest day, for three households"),
        *(user_change(change, data.horizon_days) for change in data.changes),
        heading(f"{data.flags} risk flags; the strongest of each rule"),
        NOTHING,
        flags(data.explained),
        heading("Audit: what happened to every event"),
        NOTHING,
        accounting(data.account),
    )


def user_change(change: UserChange, horizon_days: int) -> RenderableType:
    """The change by a user's latest window: features, categories, segments and interests."""
    delta = change.delta
    title = Text.assemble(
        (f"Household {change.profile.user_id} ", "bold"),
        f"{change.reason}: on {last_day(delta.window_end_ms)} it bought {_purchases(delta)}.",
    )
    numbers = _table()
    numbers.add_column("", width=25)
    for name in ("before", "", "after"):
        numbers.add_column(name, justify="center" if not name else "right", min_width=1)
    for name, feature, show in (
        (f"won't buy in {horizon_days} days", "churn", percent),
        (f"will spend in {horizon_days} days", "expected_spend", money),
        ("spends per shopping day", "purchase_amount_mean", money),
        ("buys per shopping day", "purchase_count_mean", number),
        ("days since last purchase", "recency_days", number),
    ):
        before, after = (show(delta.delta[side][feature]) for side in ("before", "after"))
        numbers.add_row(name, before, "→", after)
    categories = _table()
    categories.add_column("share of taste", width=CATEGORY_WIDTH, no_wrap=True, overflow="ellipsis")
    for name in ("before", "", "after"):
        categories.add_column(name, justify="center" if not name else "right", min_width=1)
    for category, before, after in delta.delta["moved_categories"]:
        arrow = Text("↑", style="green") if after > before else Text("↓", style="magenta")
        categories.add_row(category.lower(), percent(before), arrow, percent(after))
    summary = Table.grid(padding=(0, 2))
    summary.add_column(width=25)
    summary.add_column(width=WIDTH - 29)
    before, after = (
        ", ".join(names) or "none" for names in (change.segments_before, change.profile.segments)
    )
    summary.add_row("segments", after if before == after else f"{before} → {after}")
    summary.add_row("likely next", _interests(change.profile.profile["interests"]))
    return Group(NOTHING, title, Columns([numbers, categories], padding=(0, 3)), summary)


def flags(explained: Sequence[ExplainedFlag]) -> Table:
    table = _table()
    for name in ("day", "user", "severity"):
        table.add_column(name, no_wrap=True)
    for name in ("what happened", "usual", "recommended"):
        table.add_column(name, overflow="fold")
    for flag, observed, usual, action in explained:
        severity = Text(flag.severity, style=SEVERITY_STYLE.get(flag.severity, ""))
        table.add_row(last_day(flag.window_end_ms), flag.user_id, severity, observed, usual, action)
    return table


def accounting(account: Reconciliation) -> RenderableType:
    """How many records of the input topic had each outcome, and the verdict of the audit."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for count, outcome in (
        (account.in_topic, "records in the input topic, of which"),
        (account.used, "used in exactly one profile"),
        (account.duplicate, "duplicates"),
        (account.late, "late, sent to the late topic"),
        (account.rejected, "rejected, sent to the rejected topic with a reason"),
        (account.heartbeats, "heartbeats that closed the last day"),
        (account.unaccounted, "unaccounted for"),
    ):
        table.add_row(f"{count:,}", outcome)
    verdict = (
        Text("Every record is accounted for.", style="green")
        if account.ok
        else Text(
            "Not every record is accounted for: see liveprofile events audit --json", style="red"
        )
    )
    return Group(table, verdict)


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
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for command, description in entries:
        table.add_row(command, description)
    return Group(heading("The stack and the job keep running; commands to try"), NOTHING, table)


def console_access(opened: Opened) -> RenderableType:
    """Where the console is, how to sign in, and pages worth a look."""
    entries = Table.grid(padding=(0, 3))
    entries.add_column(no_wrap=True, style="bold")
    entries.add_column()
    entries.add_row(opened.url, "opened in the browser" if opened.in_browser else "open it")
    for path, shows in opened.pages:
        entries.add_row(f"{opened.url}{path}", shows)
    return Group(
        heading("The console runs, with the data of the demo (docs/console.md)"),
        NOTHING,
        entries,
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


def _before_after(delta: Mapping[str, Any], feature: str, show: Any) -> str:
    return f"{show(delta['before'][feature])} → {show(delta['after'][feature])}"


def _largest_taste_change(delta: StoredDelta) -> str:
    changes = delta.delta["moved_categories"]
    if not changes:
        return ""
    category, before, after = changes[0]
    return f"{'↑' if after > before else '↓'} {category.lower()}"


def _interests(interests: Mapping[str, float]) -> str:
    first = list(interests.items())[:4]
    return ", ".join(f"{name.lower()} {percent(share)}" for name, share in first)


def _table(title: str | None = None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        show_edge=False,
    )
