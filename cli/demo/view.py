"""How the demo looks: data in, what Rich prints out. Fits 100 columns; nothing here does I/O."""

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

from cli.demo.ring import RingAlerts
from cli.demo.tour import ACTIONS, Change, Explained, Tour
from cli.demo.watch import SHOWN, Snapshot
from liveprofile.audit.account import Account
from liveprofile.storage.queries import Delta

WIDTH = 100
SEVERITY_STYLE = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}
CATEGORY_WIDTH = 28
NOTHING = Text("")


def heading(text: str) -> RenderableType:
    return Group(NOTHING, Rule(Text(text, style="bold"), align="left", style="dim"))


def day(time_ms: int) -> str:
    """2017-11-26, of epoch milliseconds."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d")


def last_day(window_end_ms: int) -> str:
    """The day of a window that ends at midnight."""
    return day(window_end_ms - 1)


def live(snapshot: Snapshot, sent: int, total: int, horizon_days: int) -> RenderableType:
    """The whole live view; of one height from first to last, so that nothing jumps."""
    bars = Table.grid(padding=(0, 2))
    bars.add_column(width=16)
    bars.add_column(width=40)
    bars.add_column()
    for name, count, what in (
        ("sent to Kafka", sent, ""),
        ("read by Flink", min(snapshot.read, sent), " at its last checkpoint"),
        ("in profiles", snapshot.used, f", {sent - snapshot.used:,} behind"),
    ):
        bars.add_row(name, ProgressBar(total, count, 40), f"{count:,}{what}")
    bars.add_row("profiles", _speed(snapshot), _closed(snapshot))
    return Group(
        bars,
        NOTHING,
        _latest(snapshot.latest, horizon_days),
        NOTHING,
        Text(f"Risk flags: {snapshot.flags}", style="bold"),
        *_alert_lines(snapshot.latest_flags),
    )


def plain_line(snapshot: Snapshot, sent: int, seconds: float) -> str:
    """The live view where there is no terminal."""
    parts = (
        f"{sent:,} sent",
        f"{min(snapshot.read, sent):,} read",
        f"{snapshot.used:,} in profiles; {_speed(snapshot)}",
        f"{snapshot.flags} flags",
        _closed(snapshot),
    )
    return f"  {seconds:4.0f} s  " + ", ".join(filter(None, parts))


def _speed(snapshot: Snapshot) -> str:
    return f"{snapshot.profiles:,} written, {snapshot.profiles_per_s:,.0f} per second"


def _closed(snapshot: Snapshot) -> str:
    return f"days closed up to {last_day(snapshot.closed_ms)}" if snapshot.closed_ms else ""


def _latest(deltas: Sequence[Delta], horizon_days: int) -> Table:
    table = _table("Latest profiles")
    for name in ("day", "household"):
        table.add_column(name, width=10)
    for name, width in (
        ("bought", 24),
        (f"won't buy in {horizon_days} days", 20),
        ("moved most", 25),
    ):
        table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    for delta in deltas:
        table.add_row(
            last_day(delta.window_end_ms), delta.user_id, _bought(delta),
            _arrow(delta.delta, "churn", percent), _moved_most(delta),
        )  # fmt: skip
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


def tour(found: Tour) -> RenderableType:
    """What is told once the job has caught up."""
    return Group(
        heading("What the latest day changed for three households"),
        *(change(one, found.horizon_days) for one in found.changes),
        heading(f"{found.flags} risk flags; the clearest of each rule"),
        NOTHING,
        flags(found.explained),
        heading("What became of every event"),
        NOTHING,
        accounting(found.account),
    )


def change(one: Change, horizon_days: int) -> RenderableType:
    """One user's latest window: numbers beside categories, segments and interests below."""
    delta = one.delta
    title = Text.assemble(
        (f"Household {one.profile.user_id} ", "bold"),
        f"{one.why}: on {last_day(delta.window_end_ms)} it bought {_bought(delta)}.",
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
        before, after = (show(delta.delta[when][feature]) for when in ("before", "after"))
        numbers.add_row(name, before, "→", after)
    moved = _table()
    moved.add_column("share of taste", width=CATEGORY_WIDTH, no_wrap=True, overflow="ellipsis")
    for name in ("before", "", "after"):
        moved.add_column(name, justify="center" if not name else "right", min_width=1)
    for category, before, after in delta.delta["moved_categories"]:
        arrow = Text("↑", style="green") if after > before else Text("↓", style="magenta")
        moved.add_row(category.lower(), percent(before), arrow, percent(after))
    below = Table.grid(padding=(0, 2))
    below.add_column(width=25)
    below.add_column(width=WIDTH - 29)
    was, now = (", ".join(names) or "none" for names in (one.segments_before, one.profile.segments))
    below.add_row("segments", now if was == now else f"{was} → {now}")
    below.add_row("likely next", _interests(one.profile.profile["interests"]))
    return Group(NOTHING, title, Columns([numbers, moved], padding=(0, 3)), below)


def flags(explained: Sequence[Explained]) -> Table:
    table = _table()
    for name in ("day", "user", "severity"):
        table.add_column(name, no_wrap=True)
    for name in ("what happened", "usual", "recommended"):
        table.add_column(name, overflow="fold")
    for flag, what, usual, action in explained:
        severity = Text(flag.severity, style=SEVERITY_STYLE.get(flag.severity, ""))
        table.add_row(last_day(flag.window_end_ms), flag.user_id, severity, what, usual, action)
    return table


def accounting(account: Account) -> RenderableType:
    """What became of every record that Kafka holds."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for count, what in (
        (account.in_topic, "records in the topic, of them"),
        (account.used, "used in exactly one profile"),
        (account.duplicate, "duplicates"),
        (account.late, "late, kept in a topic of their own"),
        (account.rejected, "rejected, with a reason"),
        (account.heartbeats, "heartbeats that closed the last day"),
        (account.unaccounted, "unaccounted for"),
    ):
        table.add_row(f"{count:,}", what)
    verdict = (
        Text("Every record is accounted for.", style="green")
        if account.ok
        else Text("Not every record is accounted for: liveprofile audit --json", style="red")
    )
    return Group(table, verdict)


def ring(found: RingAlerts) -> RenderableType:
    data = found.first["data"]
    return Text.assemble(
        f"The first alert came after purchase {found.first_after} of {found.purchases},",
        f" {found.first_ms:.0f} ms after it was sent: ",
        (data["message"], "bold"),
        f" → {ACTIONS[data['action']]}. {found.users_flagged} accounts were flagged.",
    )


def commands(entries: Sequence[tuple[str, str]]) -> RenderableType:
    """What to type next, and what it shows."""
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for command, what in entries:
        table.add_row(command, what)
    return Group(heading("It all keeps running; look around"), NOTHING, table)


def percent(value: float | None) -> str:
    if value is None:
        return "-"
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _bought(delta: Delta) -> str:
    bought = delta.delta["window"]["counts"].get("purchase", 0)
    return f"{bought} product{'s' if bought != 1 else ''} for {money(delta.amount)}"


def _arrow(delta: Mapping[str, Any], feature: str, show: Any) -> str:
    return f"{show(delta['before'][feature])} → {show(delta['after'][feature])}"


def _moved_most(delta: Delta) -> str:
    moved = delta.delta["moved_categories"]
    if not moved:
        return ""
    category, before, after = moved[0]
    return f"{'↑' if after > before else '↓'} {category.lower()}"


def _interests(interests: Mapping[str, float]) -> str:
    likely = list(interests.items())[:4]
    return ", ".join(f"{name.lower()} {percent(share)}" for name, share in likely)


def _table(title: str | None = None) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_edge=False,
    )  # fmt: skip
