"""Campaigns: the form of a plan, its users with the reason for each, and what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from console.formats import number, share, utc, words
from liveprofile.campaigns.plan import TREATMENT, Target
from liveprofile.campaigns.report import Difference, Uplift
from liveprofile.campaigns.store import StoredPlan
from liveprofile.client.analysis_models import CampaignRequest
from serve.routes.common import to_ms

FIELDS = {
    "name": "",
    "segments": "",
    "when": "",
    "control_share": "0.1",
    "cost": "0",
    "margin": "1",
    "response": "",
    "budget": "",
    "contacts": "",
    "days": "30",
    "start": "",
    "excluded": "",
}
_NUMBERS = ("control_share", "cost", "margin", "response", "budget")


class ParsedPlan(NamedTuple):
    """request: None if a field has a fault."""

    request: CampaignRequest | None
    problems: list[str]


class CampaignRow(NamedTuple):
    name: str
    start_ms: int
    planned_by: str
    treatment: str
    control: str
    expected_gain: str
    cost: str


class TargetRow(NamedTuple):
    user_id: str
    group: str
    segments: str
    expected_gain: str
    reason: str


class ReportRow(NamedTuple):
    """Treatment / control, and the difference with its interval."""

    name: str
    users: str
    bought: str
    spend: str
    rate_change: str
    spend_change: str


class ReportView(NamedTuple):
    verdict: str
    rows: list[ReportRow]
    caution: str


def parse_plan(fields: Mapping[str, str]) -> ParsedPlan:
    """A form as the request of the read API. Empty fields are as if they were not there."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name in _NUMBERS:
        if text := fields.get(name, "").strip():
            try:
                values[name] = float(text)
            except ValueError:
                problems.append(f"{words(name)}: {text[:40]!r} is not a number")
    if when := fields.get("when", "").strip():
        values["when"] = when
    values["segments"] = _parts(fields.get("segments", "").split(","))
    values["excluded"] = _parts(fields.get("excluded", "").splitlines())
    if contacts := fields.get("contacts", "").strip():
        cap = {"contacts": contacts, "days": fields.get("days", "").strip()}
        if all(text.isascii() and text.isdigit() and len(text) < 6 for text in cap.values()):
            values["cap"] = {name: int(text) for name, text in cap.items()}
        else:
            problems.append("frequency cap: two whole numbers")
    if start := fields.get("start", "").strip():
        try:
            values["start_ms"] = to_ms(datetime.fromisoformat(start))
        except ValueError:
            problems.append(f"start: {start[:40]!r} is not a time")
    if problems:
        return ParsedPlan(None, problems)
    try:
        return ParsedPlan(CampaignRequest.model_validate(values), [])
    except ValidationError as error:
        return ParsedPlan(None, [_described(each) for each in error.errors()])


def _parts(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def _described(error: Any) -> str:
    return f"{words('.'.join(map(str, error['loc'])))}: {error['msg']}"


def campaign_row(plan: StoredPlan) -> CampaignRow:
    summary = plan.summary
    return CampaignRow(
        plan.campaign.name,
        plan.campaign.start_ms,
        plan.planned_by,
        number(summary["treatment"]),
        number(summary["control"]),
        number(summary["expected_gain"]),
        number(summary["cost"]),
    )


def summary_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    effect = summary["detectable_change_of_rate"]
    facts = [
        ("to contact (treatment)", number(summary["treatment"])),
        ("control group", number(summary["control"])),
        ("cost", number(summary["cost"])),
        ("expected gain", number(summary["expected_gain"])),
        ("expected purchase rate", share(summary["expected_purchase_rate"])),
        ("smallest detectable change of the rate", _points(effect)),
    ]
    return facts + [
        (f"left out: {reason}", number(users)) for reason, users in summary["left_out"].items()
    ]


def requested_facts(plan: StoredPlan) -> list[tuple[str, str]]:
    """What was asked for, without what is as always."""
    named = {name: value for name, value in plan.requested.items() if name != "start_ms"}
    return [
        ("outcomes count from", f"{utc(plan.campaign.start_ms)} UTC"),
        ("planned", f"{utc(plan.planned_at_ms)} UTC by {plan.planned_by}"),
        *(
            (words(name), _written(value))
            for name, value in named.items()
            if value not in (None, [], 0)
        ),
    ]


def target_rows(targets: Sequence[Target], requested: Mapping[str, Any]) -> list[TargetRow]:
    """Most gain first."""
    ordered = sorted(targets, key=lambda each: (-each.expected_gain, each.user_id))
    return [_target_row(each, requested) for each in ordered]


def _target_row(target: Target, requested: Mapping[str, Any]) -> TargetRow:
    response = requested.get("response")
    chance = 1 - target.churn if response is None else response
    parts = [f"expected spend {number(target.expected_spend)}", f"× {share(chance)} response"]
    if (margin := requested.get("margin", 1.0)) != 1:
        parts.append(f"× {share(margin)} margin")
    if cost := requested.get("cost", 0.0):
        parts.append(f"− {number(cost)} for the contact")
    group = "contact" if target.group == TREATMENT else "control: do not contact"
    return TargetRow(
        target.user_id,
        group,
        ", ".join(map(words, target.segments)),
        number(target.expected_gain),
        " ".join(parts),
    )


def report_view(results: Mapping[str, Uplift]) -> ReportView:
    if not results:
        return ReportView("The plan has no users.", [], "")
    rows = [_report_row(name, result) for name, result in results.items()]
    caution = ""
    if (segments := len(results) - 1) > 1:
        caution = f"{segments} segments are compared: about 1 interval in 20 misses the true value."
    return ReportView(_verdict(results["all"].rate_difference), rows, caution)


def _verdict(difference: Difference | None) -> str:
    if difference is None:
        return "There is no control group, so the effect cannot be measured."
    change = f"purchase rate changed by {_change(difference, _points)}"
    if difference.low <= 0 <= difference.high:
        return f"No clear effect: the {change}, and the interval includes zero."
    return f"The {change}."


def _report_row(name: str, result: Uplift) -> ReportRow:
    return ReportRow(
        name,
        _pair(result.users, number),
        _pair(result.purchase_rate, share),
        _pair(result.spend_per_user, number),
        _change(result.rate_difference, _points),
        _change(result.spend_difference, number),
    )


def _pair(values: Mapping[str, float | None], written: Any) -> str:
    return " / ".join(map(written, values.values()))


def _change(difference: Difference | None, written: Any) -> str:
    if difference is None:
        return number(None)
    value, low, high = map(written, difference)
    return f"{value} ({low} to {high})"


def _points(value: float | None) -> str:
    return number(None) if value is None else f"{number(100 * value, 1)} points"


def _written(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{number(each)} {words(name)}" for name, each in value.items())
        case list():
            return ", ".join(map(str, value))
        case int() | float():
            return number(value)
    return str(value)
