"""Each call of the API as a value: what to send, and how to read the answer.

`Client.send` and `AsyncClient.send` return the answer of a call. docs/api.md describes the routes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from liveprofile.client import analysis_models as analyses
from liveprofile.client import explanation_models as explanations
from liveprofile.client import models

Result = TypeVar("Result")

ROWS = 50
ALL_RULES = "*"
ANY_TAG = "*"
# Longer than the server takes at most for definitions.
LONG_TIMEOUT_S = 20.0
# Longer than an analysis of all users may take with the default settings.
SCAN_TIMEOUT_S = 40.0
# Longer than an explanation may take with the default settings.
EXPLANATION_TIMEOUT_S = 320.0


class Call(NamedTuple, Generic[Result]):
    """One request. `parse`: reads the body of a successful answer.

    `retried`: it only reads, or repeating it changes nothing.
    """

    method: str
    path: str
    parse: Callable[[bytes], Result]
    params: Mapping[str, Any] = {}
    body: Mapping[str, Any] | None = None
    retried: bool = True
    headers: Mapping[str, str] = {}
    timeout_s: float | None = None  # None: that of the client

    def request(self) -> dict[str, Any]:
        """The arguments of httpx2's `request`."""
        timeout = {} if self.timeout_s is None else {"timeout": self.timeout_s}
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "json": self.body,
            "headers": self.headers,
            **timeout,
        }

    def after(self, cursor: str) -> Self:
        """The same call for the next page."""
        return self._replace(params={**self.params, "cursor": cursor})


def profile(user_id: str, embedding: bool = False) -> Call[models.Profile]:
    """The profile as of the user's last closed window."""
    params = {"embedding": "true"} if embedding else {}
    return Call("GET", _user(user_id), _as(models.Profile), params)


def profile_at(user_id: str, at: datetime) -> Call[models.PastProfile]:
    """What the profile said at an earlier time, by event time."""
    return Call("GET", _user(user_id), _as(models.PastProfile), {"at": _time(at)})


def profiles(user_ids: Sequence[str], embedding: bool = False) -> Call[models.ProfileBatch]:
    """The profiles of up to 100 users."""
    body = {"user_ids": list(user_ids), "embedding": embedding}
    return Call("POST", "/v1/users:batchGet", _as(models.ProfileBatch), body=body)


def deltas(user_id: str, limit: int = ROWS) -> Call[models.Page[models.Delta]]:
    """The changes of each window, newest first."""
    parse = _as(models.Page[models.Delta])
    return Call("GET", _user(user_id, "deltas"), parse, {"limit": limit})


def scores(user_id: str, limit: int = ROWS) -> Call[models.Page[models.Score]]:
    """The scores of single events, newest first."""
    parse = _as(models.Page[models.Score])
    return Call("GET", _user(user_id, "scores"), parse, {"limit": limit})


def flags(
    user_id: str, since: datetime | None = None, limit: int = ROWS
) -> Call[models.Page[models.RiskFlag]]:
    """The user's risk flags, newest first."""
    params = {"limit": limit} | _given(since=_time(since))
    return Call("GET", _user(user_id, "flags"), _as(models.Page[models.RiskFlag]), params)


def next_items(user_id: str, limit: int = 20) -> Call[models.NextItems]:
    """The items that the model expects next, most probable first."""
    return Call("GET", _user(user_id, "next-items"), _as(models.NextItems), {"limit": limit})


def interests(user_id: str) -> Call[models.Interests]:
    """The categories that the model expects next, and the long-term shares."""
    return Call("GET", _user(user_id, "interests"), _as(models.Interests))


def similar(user_id: str, k: int = 10, segment: str | None = None) -> Call[models.Lookalikes]:
    """The users with the most similar embeddings, best first."""
    params = {"k": k} | _given(segment=segment)
    return Call("GET", _user(user_id, "similar"), _as(models.Lookalikes), params)


def explanation(user_id: str, at_ms: int | None = None) -> Call[explanations.Explanation]:
    """Explains the last window that ended by then, by default the newest. Takes a minute."""
    body, path = {} if at_ms is None else {"at_ms": at_ms}, _user(user_id, "explanations")
    parse = _as(explanations.Explanation)
    # Each attempt costs a minute of a core: the caller decides.
    return Call("POST", path, parse, body=body, retried=False, timeout_s=EXPLANATION_TIMEOUT_S)


def alerts(
    user_id: str | None = None,
    state: models.AlertStateName | None = None,
    since: datetime | None = None,
    limit: int = ROWS,
) -> Call[models.Page[models.RiskAlert]]:
    """Flags with their states, newest first."""
    params = {"limit": limit} | _given(user_id=user_id, state=state, since=_time(since))
    return Call("GET", "/v1/alerts", _as(models.Page[models.RiskAlert]), params)


def alert(flag_id: str) -> Call[models.AlertDetails]:
    """An alert with its history, snoozes and cases."""
    return Call("GET", _alert(flag_id), _as(models.AlertDetails))


def set_state(
    flag_id: str, state: Literal["acknowledged", "closed"], note: str = ""
) -> Call[models.StoredState]:
    """Acknowledges or closes an alert."""
    body = {"state": state, "note": note}
    return Call("PUT", _alert(flag_id, "state"), _as(models.StoredState), body=body)


def label(
    flag_id: str, label: Literal["fraud", "legitimate"], note: str = ""
) -> Call[models.StoredState]:
    """Labels the event of an alert."""
    body = {"label": label, "note": note}
    return Call("PUT", _alert(flag_id, "label"), _as(models.StoredState), body=body)


def snoozes(user_id: str) -> Call[models.SnoozeList]:
    """The user's snoozed rules."""
    return Call("GET", _user(user_id, "snoozes"), _as(models.SnoozeList))


def snooze(
    user_id: str, for_s: int, rule_id: str = ALL_RULES, note: str = ""
) -> Call[models.UserSnooze]:
    """Suppresses the alerts of a rule, or of all, about a user from now on."""
    # Repeated, it would end later.
    path = _user(user_id, "snoozes", rule_id)
    body = {"for_s": for_s, "note": note}
    return Call("PUT", path, _as(models.UserSnooze), body=body, retried=False)


def end_snooze(user_id: str, rule_id: str = ALL_RULES) -> Call[None]:
    """Ends a snooze; does nothing if there is none."""
    return Call("DELETE", _user(user_id, "snoozes", rule_id), lambda body: None)


def cases(
    user_id: str | None = None, is_open: bool | None = None, limit: int = ROWS
) -> Call[models.Page[models.CustomerCase]]:
    """Cases of a user, or of all users in no particular order."""
    flag = None if is_open is None else str(is_open).lower()
    params = {"limit": limit} | _given(user_id=user_id, open=flag)
    return Call("GET", "/v1/cases", _as(models.Page[models.CustomerCase]), params)


def segment_members(segment: str, limit: int = ROWS) -> Call[models.Page[analyses.SegmentMember]]:
    """The members of a segment, in no particular order."""
    parse = _as(models.Page[analyses.SegmentMember])
    return Call("GET", _segment(segment, "members"), parse, {"limit": limit})


def segment_sizes(segment: str, limit: int = ROWS) -> Call[analyses.SizeList]:
    """The sizes of a segment at the latest sweeps, newest first."""
    return Call("GET", _segment(segment, "sizes"), _as(analyses.SizeList), {"limit": limit})


def user_segments(user_id: str) -> Call[analyses.UserSegmentList]:
    """The segments that the user is or was in."""
    return Call("GET", _user(user_id, "segments"), _as(analyses.UserSegmentList))


def attributes(user_id: str) -> Call[models.AttributeList]:
    """What other systems state about the user, with source and expiry."""
    return Call("GET", _user(user_id, "attributes"), _as(models.AttributeList))


def trend(
    by: Literal["hour", "day"] = "hour",
    metric: Literal["events", "users", "amount"] = "events",
    count: int = 168,
    category: str | None = None,
    event_type: str | None = None,
) -> Call[analyses.Trend]:
    """The last `count` complete hours or days with the range expected from earlier weeks."""
    params = {"by": by, "metric": metric, "count": count}
    params |= _given(category=category, event_type=event_type)
    return Call("GET", "/v1/trends", _as(analyses.Trend), params)


def forecast(
    metric: Literal["events", "users", "amount"] = "events",
    category: str | None = None,
    event_type: str | None = None,
) -> Call[analyses.TrendForecast]:
    """The hours of the next day, with an 80 % interval."""
    params = {"metric": metric} | _given(category=category, event_type=event_type)
    parse = _as(analyses.TrendForecast)
    return Call("GET", "/v1/trends/forecast", parse, params, timeout_s=LONG_TIMEOUT_S)


def funnel(
    steps: Sequence[str] = ("view", "cart", "purchase"),
    within_h: int = 168,
    days: int = 23,
    by: Literal["segment", "category"] = "segment",
) -> Call[analyses.FunnelAnswer]:
    """How many users take the steps of a funnel."""
    params = {"step": list(steps), "within_h": within_h, "days": days, "by": by}
    return Call("GET", "/v1/funnel", _as(analyses.FunnelAnswer), params, timeout_s=SCAN_TIMEOUT_S)


def retention(event_type: str | None = None) -> Call[analyses.CohortList]:
    """Which users of a first week come back in the weeks after it."""
    params = _given(event_type=event_type)
    return Call("GET", "/v1/retention", _as(analyses.CohortList), params, timeout_s=SCAN_TIMEOUT_S)


def campaigns() -> Call[analyses.CampaignList]:
    """The campaigns that were planned through the API, newest start first."""
    return Call("GET", "/v1/campaigns", _as(analyses.CampaignList))


def campaign(name: str) -> Call[analyses.CampaignAnswer]:
    """A campaign with the summary of its plan."""
    return Call("GET", _campaign(name), _as(analyses.CampaignAnswer))


def plan_campaign(
    name: str, request: analyses.CampaignRequest, dry_run: bool = False
) -> Call[analyses.PlanSummary]:
    """Plans a campaign once. Conflict: it is planned already."""
    # Repeated after a lost answer, it would be a conflict with itself.
    return Call(
        "PUT",
        _campaign(name),
        _as(analyses.PlanSummary),
        {"dry_run": "true"} if dry_run else {},
        request.model_dump(exclude_unset=True),
        retried=dry_run,
        timeout_s=SCAN_TIMEOUT_S,
    )


def campaign_targets(name: str) -> Call[models.Page[analyses.CampaignTarget]]:
    """The users of a plan."""
    return Call("GET", _campaign(name, "targets"), _as(models.Page[analyses.CampaignTarget]))


def campaign_report(name: str, days: int = 30) -> Call[analyses.CampaignReport]:
    """What a campaign changed, with 95 % intervals."""
    parse = _as(analyses.CampaignReport)
    return Call("GET", _campaign(name, "report"), parse, {"days": days}, timeout_s=SCAN_TIMEOUT_S)


def consents(user_id: str) -> Call[models.UserConsents]:
    """What the user allows now, and each change."""
    return Call("GET", _user(user_id, "consents"), _as(models.UserConsents))


def put_consent(
    user_id: str, purpose: str, request: models.ConsentRequest
) -> Call[models.UserConsents]:
    """Grants or withdraws a purpose. With a time, repeating it changes nothing."""
    path, body = _user(user_id, "consents", purpose), request.model_dump(exclude_unset=True)
    return Call("PUT", path, _as(models.UserConsents), body=body, timeout_s=LONG_TIMEOUT_S)


def erasure(user_id: str) -> Call[models.UserErasure]:
    """When each place is clear of an erased user. NotFound: the API knows of no erasure."""
    return Call("GET", _user(user_id, "erasure"), _as(models.UserErasure))


def put_erasure(user_id: str, before_ms: int | None = None) -> Call[models.UserErasure]:
    """Erases everything of a user before a time, by default now."""
    body = {} if before_ms is None else {"before_ms": before_ms}
    path = _user(user_id, "erasure")
    return Call("PUT", path, _as(models.UserErasure), body=body, timeout_s=LONG_TIMEOUT_S)


def rules() -> Call[analyses.RuleList]:
    """The rules that jobs use."""
    return Call("GET", "/v1/rules", _as(analyses.RuleList), timeout_s=LONG_TIMEOUT_S)


def segments() -> Call[analyses.SegmentList]:
    """The segment definitions that jobs use."""
    return Call("GET", "/v1/segments", _as(analyses.SegmentList), timeout_s=LONG_TIMEOUT_S)


def put_rules(
    rules: Sequence[Mapping[str, Any]], tag: str, dry_run: bool = False
) -> Call[analyses.AppliedChanges]:
    """Replaces all rules. tag: of the rules that were read; ANY_TAG overwrites all others."""
    return _put_definitions("/v1/rules", {"rules": list(rules)}, tag, dry_run)


def put_segments(
    segments: Sequence[Mapping[str, Any]], tag: str, dry_run: bool = False
) -> Call[analyses.AppliedChanges]:
    """Replaces all segment definitions, as `put_rules`."""
    return _put_definitions("/v1/segments", {"segments": list(segments)}, tag, dry_run)


def preview_segments(
    segments: Sequence[Mapping[str, Any]], at: datetime | None = None
) -> Call[analyses.PreviewAnswer]:
    """Who would enter and leave each segment with these definitions."""
    body = {"segments": list(segments)}
    parse = _as(analyses.PreviewAnswer)
    params = _given(at=_time(at))
    return Call("POST", "/v1/segments:preview", parse, params, body, timeout_s=SCAN_TIMEOUT_S)


def _put_definitions(
    path: str, body: Mapping[str, Any], tag: str, dry_run: bool
) -> Call[analyses.AppliedChanges]:
    return Call(
        "PUT",
        path,
        _as(analyses.AppliedChanges),
        {"dry_run": "true"} if dry_run else {},
        body,
        headers={"If-Match": tag if tag == ANY_TAG else f'"{tag}"'},
        timeout_s=LONG_TIMEOUT_S,
    )


def audit(day: datetime) -> Call[models.Page[models.AuditRecord]]:
    """The writes through the API of the UTC day that contains the time, newest first."""
    return Call("GET", "/v1/audit", _as(models.Page[models.AuditRecord]), {"day": _time(day)})


def ready() -> Call[models.Health]:
    """Whether the server can answer."""
    return Call("GET", "/health/ready", _as(models.Health), retried=False)


def _as(model: type[BaseModel]) -> Callable[[bytes], Any]:
    return model.model_validate_json


def _user(user_id: str, *rest: str) -> str:
    return "/".join(["/v1/users", *(quote(part, safe="*") for part in (user_id, *rest))])


def _alert(flag_id: str, *rest: str) -> str:
    return "/".join(["/v1/alerts", *(quote(part, safe="") for part in (flag_id, *rest))])


def _segment(segment: str, *rest: str) -> str:
    return "/".join(["/v1/segments", *(quote(part, safe="") for part in (segment, *rest))])


def _campaign(name: str, *rest: str) -> str:
    return "/".join(["/v1/campaigns", *(quote(part, safe="") for part in (name, *rest))])


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _time(time: datetime | None) -> str | None:
    """A time without a zone is UTC, as everywhere in Liveprofile."""
    return None if time is None else time.replace(tzinfo=time.tzinfo or UTC).isoformat()
