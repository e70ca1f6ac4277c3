"""`liveprofile campaign`: plans a campaign, sends it, and reports what it changed."""

import getpass
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cli.common import Call, cell, read_user_ids, refuse_empty, table, time_option
from cli.options import Commands
from cli.progress import print_line
from liveprofile.errors import InputError
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from services.campaigns import campaigns
from services.campaigns.report import Difference, report_as_json
from services.campaigns.request import CampaignRequest
from services.campaigns.store import find_plan, plan_as_json, read_plans, read_targets, write_csv

campaign = Commands()

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the campaign.", callback=refuse_empty)
]


@campaign.command()
def plan(
    call: Call,
    name: str,
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
    start: Annotated[int | None, time_option("--start")] = None,
    dry_run: bool = False,
) -> None:
    """Choose the users with the most expected gain, and a control group that is not contacted.

    Users with an open fraud case, or without marketing consent, are left out.

    Example: `liveprofile campaign plan spring --segment lapsing --when "churn < 0.9" --cost 0.2
    --budget 500 --cap 2/30d`

    Options:
    name NAME: Name of the campaign: a-z, 0-9, `.`, `_`, `-`.
    csv FILE: Also write the plan as CSV.
    when CONDITION: Condition over profile features.
    segment NAME: Only this segment; may be repeated.
    control: Share that is not contacted.
    budget: Sum of costs. Default: no limit.
    cost: Of one contact.
    margin: Share of the spend that is gain.
    response: Probability of a purchase. Default: 1 - churn.
    cap N/DAYS: Frequency cap, such as 2/30d.
    exclude FILE: User ids that must not be contacted.
    start TIME: Outcomes count from here. Default: now.
    dry_run: Print the summary, store nothing.
    """
    try:
        asked = CampaignRequest(
            segments=segment or [],
            when=when,
            control_share=control,
            budget=budget,
            cost=cost,
            margin=margin,
            response=response,
            cap=None if cap is None else _cap(cap),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"--{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    start_ms = now_ms() if start is None else start
    opted_out = read_user_ids(exclude, "--exclude", may_be_empty=True) if exclude else []
    wish = campaigns.wish_of(name, asked, start_ms, "--when")._replace(
        opted_out=frozenset(each.strip() for each in opted_out)
    )
    requested = campaigns.requested_of(asked) | {"excluded": len(wish.opted_out)}
    with call.session() as session:
        by = getpass.getuser()
        summary = campaigns.plan(session, call.settings, wish, by, requested, dry_run=dry_run)
        if csv is not None and not dry_run:
            write_csv(csv, wish.campaign, read_targets(session, find_plan(session, name)))
    call.print(summary | {"name": name, "start_ms": start_ms})
    if not summary["control"] and not call.json:
        print_line(NO_CONTROL)


@campaign.command()
def send(call: Call, name: NameArgument, topic: Annotated[str, typer.Option()]) -> None:
    """Send the treatment group to a topic as CloudEvents.

    Sending a plan again sends the same ids. Users are left out who were erased or have withdrawn
    marketing consent since, or whom other campaigns have contacted too often (`--cap` of the plan).

    Example: `liveprofile campaign send spring --topic campaign-targets`

    Options:
    topic TOPIC: Existing topic for the targets.
    """
    partition_ranges(call.settings, topic)  # an unknown topic is an error before the plan is read
    with call.session() as session:
        sent, left_out = campaigns.send(session, call.settings, name, topic)
    call.print({"sent": sent} | left_out)


@campaign.command()
def report(
    call: Call, name: NameArgument, days: Annotated[int, typer.Option(min=1, max=3_650)] = 30
) -> None:
    """Compare purchases and spend of treatment and control after the start, with 95 % intervals.

    Outcomes come from the stored deltas (`cassandra.delta_ttl_s`, 30 days).

    Example: `liveprofile campaign report spring --days 14`

    Options:
    days: Days of outcomes after the start.
    """
    with call.session() as session:
        found, results = campaigns.report(session, call.settings, name, days * DAY_MS)
    about = found.campaign
    document = report_as_json(about, about.start_ms + days * DAY_MS, results)
    title = f"Campaign {about.name}, {days} days: treatment, control; change (low to high)"
    call.print(document, table(title, results.items(), REPORT))
    if not call.json and results:
        if results["all"].rate_difference is None:
            print_line(NO_CONTROL)
        elif len(results) > 2:
            print_line(
                f"{len(results) - 1} segments are compared: of 20 intervals, one misses the truth."
            )


@campaign.command(name="list")
def list_campaigns(call: Call) -> None:
    """List the planned campaigns, newest start first.

    Example: `liveprofile campaign list --json`
    """
    with call.session() as session:
        plans = read_plans(session)
    columns = "name start_ms planned_by treatment control expected_gain"
    listed = [plan_as_json(each) for each in plans]
    shown = [each | each["summary"] for each in listed]
    call.print(listed, table("Campaigns", shown, columns))


def _cap(text: str) -> dict[str, int]:
    """Reads a number of contacts and days. Raises InputError."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})d", text)
    if found is None:
        raise InputError(f"--cap {text!r}: not a number of contacts and days such as 2/30d")
    return {"contacts": int(found[1]), "days": int(found[2])}


def _values(values: dict[str, Any]) -> str:
    return " / ".join(cell(name, each) for name, each in values.items())


def _change(difference: Difference | None) -> str | None:
    if difference is None:
        return None
    value, low, high = (f"{each:+.4g}" for each in difference)
    return f"{value} ({low} to {high})"


# Of a group and its Uplift.
REPORT = {
    "group": lambda row: row[0],
    "users": lambda row: _values(row[1].users),
    "bought": lambda row: _values(row[1].purchase_rate),
    "spend": lambda row: _values(row[1].spend_per_user),
    "change of rate": lambda row: _change(row[1].rate_difference),
    "change of spend": lambda row: _change(row[1].spend_difference),
}
NO_CONTROL = "The plan has no control group: nothing tells what the campaign changes."
