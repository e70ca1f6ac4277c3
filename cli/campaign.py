"""`liveprofile campaign`: plans a campaign, sends it, and reports what it changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from cassandra.cluster import Session

from cli.common import Call, format_utc, parse_duration_ms, parse_since_ms, refuse_empty, table
from cli.options import Commands
from liveprofile.campaigns.plan import Cap, Economics, condition_of
from liveprofile.campaigns.plan_file import (
    PlanFile,
    is_campaign_name,
    read_plan,
    write_csv,
    write_plan,
)
from liveprofile.campaigns.plan_store import find_plan, plan_as_json, read_plans, read_targets
from liveprofile.campaigns.planning import Wish, campaign_of, report_as_json, report_on, summary_of
from liveprofile.campaigns.uplift import Difference
from liveprofile.errors import InputError
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.units import DAY_MS
from services import campaigns
from services.campaigns import choose

campaign = Commands()

PlanArgument = Annotated[
    str,
    typer.Argument(
        metavar="PLAN",
        help="Plan file (Parquet), or the name of a campaign that was planned through the API.",
        callback=refuse_empty,
    ),
]


@campaign.command()
def plan(
    call: Call,
    name: str,
    out: Annotated[Path, typer.Option()],
    csv: Path | None = None,
    when: str | None = None,
    segment: list[str] | None = None,
    control: Annotated[float, typer.Option(min=0, max=0.99)] = 0.1,
    budget: Annotated[float | None, typer.Option(min=0)] = None,
    cost: Annotated[float, typer.Option(min=0)] = 0.0,
    margin: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    response: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    cap: str | None = None,
    exclude: Path | None = None,
    start: str | None = None,
) -> None:
    """Choose the users with the most expected gain, and a control group that is not contacted.

    Users with an open fraud case, or without marketing consent, are left out.

    Example: `liveprofile campaign plan spring --segment lapsing --when "churn < 0.9" --cost 0.2
    --budget 500 --cap 2/30d --out spring.parquet`

    Options:
    name NAME: Name of the campaign: a-z, 0-9, `.`, `_`, `-`.
    out FILE: Plan file (Parquet).
    csv FILE: The same as CSV.
    when CONDITION: Condition over profile features.
    segment NAME: Only this segment; may be repeated.
    control: Share that is not contacted.
    budget: Sum of costs. Default: no limit.
    cost: Of one contact.
    margin: Share of the spend that is gain.
    response: Probability of a purchase. Default: 1 - churn.
    cap N/SPAN: Frequency cap, such as 2/30d.
    exclude FILE: User ids that must not be contacted.
    start TIME: Outcomes count from here. Default: now.
    """
    condition = None if when is None else condition_of(when)
    start_ms = round(time.time() * 1_000) if start is None else parse_since_ms(start, "--start")
    wish = Wish(
        campaign_of(
            name=name,
            start_ms=start_ms,
            control_share=control,
            cost=cost,
            cap=None if cap is None else _cap(cap),
        ),
        Economics(cost, margin, response, budget),
        condition,
        frozenset(segment or ()),
        _user_ids(exclude),
    )
    with call.session() as session:
        chosen = choose(session, call.settings, wish)
    result = PlanFile(wish.campaign, chosen.targets)
    write_plan(out, result)
    if csv is not None:
        write_csv(csv, result)
    summary = summary_of(chosen, wish)
    reasons = {f"left out: {reason}": n for reason, n in summary["left_out"].items()}
    shown = {name: n for name, n in summary.items() if name != "left_out"} | reasons
    warning = "There is no control group: a report cannot tell what the campaign changes."
    call.print(
        summary | {"name": name, "start_ms": start_ms},
        shown,
        *([] if summary["control"] else [warning]),
    )


@campaign.command()
def send(call: Call, plan: PlanArgument, topic: Annotated[str, typer.Option()]) -> None:
    """Send the treatment group to a topic as CloudEvents, and store the contacts for caps.

    Sending a plan again sends the same ids and stores nothing new. Users are left out who have
    withdrawn marketing consent since the plan was made, and whom other campaigns have contacted
    too often since (`--cap` of the plan).

    Example: `liveprofile campaign send spring.parquet --topic campaign-targets`

    Options:
    topic TOPIC: Existing topic for the targets.
    """
    read = _reader(plan)
    partition_ranges(call.settings, topic)  # an unknown topic is an error before anything is stored
    with call.session() as session:
        sent, left_out = campaigns.send(session, call.settings, read(session), topic)
    withdrawn, at_cap = left_out["no_consent"], left_out["frequency_cap"]
    call.print(
        {"sent": sent} | left_out,
        f"{sent} users sent to {topic}, {withdrawn} have withdrawn their consent,"
        f" {at_cap} are at the frequency cap",
    )


@campaign.command()
def report(
    call: Call, plan: PlanArgument, days: Annotated[int, typer.Option(min=1, max=3_650)] = 30
) -> None:
    """Compare purchases and spend of treatment and control after the start, with 95 % intervals.

    Outcomes come from the stored deltas (`cassandra.delta_ttl_s`, 30 days).

    Example: `liveprofile campaign report spring.parquet --days 14`

    Options:
    days: Days of outcomes after the start.
    """
    read = _reader(plan)
    with call.session() as session:
        planned = read(session)
        about = planned.campaign
        end_ms = about.start_ms + days * DAY_MS
        results = report_on(session, planned, end_ms, call.settings.window.length_ms)
    shown = ["the plan has no users"]
    if results:
        title = f"Campaign {about.name}, {days} days: treatment / control"
        shown = [table(title, results.items(), REPORT)]
        if results["all"].rate_difference is None:
            shown += ["The plan has no control group: nothing tells what the campaign changed."]
        elif len(results) > 2:
            segments = len(results) - 1
            shown += [f"{segments} segments are compared: of 20 intervals, one misses the truth."]
    call.print(report_as_json(about, end_ms, results), *shown)


@campaign.command(name="list")
def list_campaigns(call: Call) -> None:
    """List the campaigns that were planned through the API, newest start first.

    `campaign send` and `campaign report` take their names. Plans in files are not listed.

    Example: `liveprofile campaign list --json`
    """
    with call.session() as session:
        plans = read_plans(session)
    columns = {
        "campaign": "{.campaign.name}",
        "start": lambda plan: format_utc(plan.campaign.start_ms),
        "by": "{.planned_by}",
        ">treatment": "{.summary[treatment]:,d}",
        ">control": "{.summary[control]:,d}",
        ">expected gain": "{.summary[expected_gain]:,.2f}",
    }
    call.print(
        [plan_as_json(each) for each in plans],
        table("Campaigns planned through the API", plans, columns),
    )


def _reader(plan: str) -> Callable[[Session], PlanFile]:
    """Returns the function that reads the plan of a file or of a stored campaign.

    A file is read at once. Raises InputError; the function UnknownCampaignError, ServiceError.
    """
    file = Path(plan)
    if file.exists() or file.suffix == ".parquet" or not is_campaign_name(plan):
        in_file = read_plan(file)
        return lambda session: in_file
    return lambda session: read_targets(session, find_plan(session, plan))


def _cap(text: str) -> Cap:
    """Reads a number of contacts and a span. Raises InputError."""
    count, separator, span = text.partition("/")
    if not separator or not count.isdecimal() or not int(count):
        raise InputError(f"--cap {text!r}: not a number of contacts and a span such as 2/30d")
    return Cap(contacts=int(count), span_ms=parse_duration_ms(span, "--cap"))


def _user_ids(file: Path | None) -> frozenset[str]:
    """The lines of a file. Raises InputError."""
    if file is None:
        return frozenset()
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {file}: {getattr(error, 'strerror', error)}") from None
    return frozenset(line.strip() for line in lines if line.strip())


def _pair(values: dict[str, Any], form: str) -> str:
    return " / ".join("-" if each is None else format(each, form) for each in values.values())


def _change(difference: Difference | None, form: str) -> str:
    if difference is None:
        return "-"
    value, low, high = (format(each, form) for each in difference)
    return f"{value} ({low} to {high})"


# Of a group and its Uplift.
REPORT = {
    "group": "{[0]}",
    ">users": lambda row: _pair(row[1].users, ",d"),
    ">bought": lambda row: _pair(row[1].purchase_rate, ".2%"),
    ">spend": lambda row: _pair(row[1].spend_per_user, ",.2f"),
    ">change of rate": lambda row: _change(row[1].rate_difference, "+.2%"),
    ">change of spend": lambda row: _change(row[1].spend_difference, "+,.2f"),
}
