"""`liveprofile campaign`: plans a campaign, sends it, and reports what it changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    parse_duration_ms,
    parse_since_ms,
    print_fields,
    print_json,
    print_table,
    read_settings,
    refuse_empty,
)
from cli.options import Commands
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.campaigns.plan import Cap
    from liveprofile.campaigns.plan_file import PlanFile
    from liveprofile.campaigns.uplift import Difference, Uplift

campaign = Commands(
    name="campaign",
    help="Plan a campaign, send it, and report what it changed (docs/campaigns.md)."
    "\n\nExample: `liveprofile campaign report spring.parquet`",
)


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
    config: ConfigOption = None,
    json: JsonOption = False,
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
    from liveprofile.campaigns.plan import Economics, condition_of
    from liveprofile.campaigns.plan_file import PlanFile, write_csv, write_plan
    from liveprofile.campaigns.planning import (
        Wish,
        campaign_of,
        summary_of,
    )
    from liveprofile.storage.connection import open_session
    from services.campaigns import choose

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
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        chosen = choose(session, settings, wish)
    result = PlanFile(wish.campaign, chosen.targets)
    write_plan(out, result)
    if csv is not None:
        write_csv(csv, result)
    summary = summary_of(chosen, wish)
    if json:
        print_json(summary | {"name": name, "start_ms": start_ms})
    else:
        left_out = summary.pop("left_out")
        print_fields(summary | {f"left out: {reason}": n for reason, n in left_out.items()})
        if not summary["control"]:
            typer.echo("There is no control group: a report cannot tell what the campaign changes.")


@campaign.command()
def send(
    plan: PlanArgument,
    topic: Annotated[str, typer.Option()],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send the treatment group to a topic as CloudEvents, and store the contacts for caps.

    Sending a plan again sends the same ids and stores nothing new. Users are left out who have
    withdrawn marketing consent since the plan was made, and whom other campaigns have contacted
    too often since (`--cap` of the plan).

    Example: `liveprofile campaign send spring.parquet --topic campaign-targets`

    Options:
    topic TOPIC: Existing topic for the targets.
    """
    from liveprofile.kafka.offsets import partition_ranges
    from liveprofile.storage.connection import open_session
    from services import campaigns

    read = _reader(plan)
    settings = read_settings(config)
    partition_ranges(settings, topic)  # an unknown topic is an error before anything is stored
    with open_session(settings.cassandra) as session:
        sent, left_out = campaigns.send(session, settings, read(session), topic)
    if json:
        print_json({"sent": sent} | left_out)
        return
    withdrawn, at_cap = left_out["no_consent"], left_out["frequency_cap"]
    typer.echo(
        f"{sent} users sent to {topic}, {withdrawn} have withdrawn their consent,"
        f" {at_cap} are at the frequency cap"
    )


@campaign.command()
def report(
    plan: PlanArgument,
    days: Annotated[int, typer.Option(min=1, max=3_650)] = 30,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Compare purchases and spend of treatment and control after the start, with 95 % intervals.

    Outcomes come from the stored deltas (`cassandra.delta_ttl_s`, 30 days).

    Example: `liveprofile campaign report spring.parquet --days 14`

    Options:
    days: Days of outcomes after the start.
    """
    from liveprofile.campaigns.planning import report_as_json, report_on
    from liveprofile.storage.connection import open_session

    read = _reader(plan)
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        planned = read(session)
        about = planned.campaign
        end_ms = about.start_ms + days * DAY_MS
        results = report_on(session, planned, end_ms, settings.window.length_ms)
    if json:
        print_json(report_as_json(about, end_ms, results))
        return
    if not results:
        typer.echo("the plan has no users")
        return
    columns = ["group"]
    columns += [f">{text}" for text in ("users", "bought", "spend")]
    columns += [f">{text}" for text in ("change of rate", "change of spend")]
    rows = [_row(name, result) for name, result in results.items()]
    print_table(f"Campaign {about.name}, {days} days: treatment / control", columns, rows)
    if results["all"].rate_difference is None:
        typer.echo("The plan has no control group: nothing tells what the campaign changed.")
    elif len(results) > 2:
        typer.echo(
            f"{len(results) - 1} segments are compared: of 20 intervals, one misses the truth."
        )


@campaign.command(name="list")
def list_campaigns(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the campaigns that were planned through the API, newest start first.

    `campaign send` and `campaign report` take their names. Plans in files are not listed.

    Example: `liveprofile campaign list --json`
    """
    from liveprofile.campaigns.plan_store import plan_as_json, read_plans
    from liveprofile.storage.connection import open_session

    with open_session(read_settings(config).cassandra) as session:
        plans = read_plans(session)
    if json:
        print_json([plan_as_json(each) for each in plans])
        return
    rows = [
        [
            each.campaign.name,
            format_utc(each.campaign.start_ms),
            each.planned_by,
            *(format(each.summary[name], ",d") for name in ("treatment", "control")),
            format(each.summary["expected_gain"], ",.2f"),
        ]
        for each in plans
    ]
    columns = ["campaign", "start", "by", ">treatment", ">control", ">expected gain"]
    print_table("Campaigns planned through the API", columns, rows)


def _reader(plan: str) -> Callable[[Session], PlanFile]:
    """Returns the function that reads the plan of a file or of a stored campaign.

    A file is read at once. Raises InputError; the function UnknownCampaignError, ServiceError.
    """
    from liveprofile.campaigns.plan_file import is_campaign_name, read_plan
    from liveprofile.campaigns.plan_store import find_plan, read_targets

    file = Path(plan)
    if file.exists() or file.suffix == ".parquet" or not is_campaign_name(plan):
        in_file = read_plan(file)
        return lambda session: in_file
    return lambda session: read_targets(session, find_plan(session, plan))


def _cap(text: str) -> Cap:
    """Reads a number of contacts and a span. Raises InputError."""
    from liveprofile.campaigns.plan import Cap

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


def _row(name: str, result: Uplift) -> list[str]:
    def pair(values: dict[str, Any], form: str) -> str:
        return " / ".join("-" if each is None else format(each, form) for each in values.values())

    def change(difference: Difference | None, form: str) -> str:
        if difference is None:
            return "-"
        value, low, high = (format(each, form) for each in difference)
        return f"{value} ({low} to {high})"

    return [
        name,
        pair(result.users, ",d"),
        pair(result.purchase_rate, ".2%"),
        pair(result.spend_per_user, ",.2f"),
        change(result.rate_difference, "+.2%"),
        change(result.spend_difference, "+,.2f"),
    ]
