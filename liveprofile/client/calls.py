"""The routes of the API, each a function from the ids of its path and named values to a call.

    calls.profile("42", embedding=True)
    calls.snooze("42", "*", for_s=3_600)  # "*": all rules
    calls.put_rules(rules=[...], tag=rules.tag, dry_run=True)

`Client.send` returns the answer of a call. docs/api.md describes the routes and their values. The
server refuses unknown ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from liveprofile.client import analysis_models as analyses
from liveprofile.client import models
from liveprofile.client.models import Items, Page

Result = TypeVar("Result")

ANY_TAG = "*"
# Longer than the server takes at most for definitions.
LONG_S = 20.0
# Longer than an analysis of all users may take with the default settings.
SCAN_S = 40.0


class Call(NamedTuple, Generic[Result]):
    """One request. `model`: of a successful answer; None: it has no body.

    `retried`: it only reads, or repeating it changes nothing.
    """

    method: str
    path: str
    model: type[Result] | None
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

    def parse(self, body: bytes) -> Result:
        """Raises pydantic's ValidationError."""
        return self.model and self.model.model_validate_json(body)

    def after(self, cursor: str) -> Self:
        """The same call for the next page."""
        return self._replace(params={**self.params, "cursor": cursor})


@dataclass(frozen=True)
class Route(Generic[Result]):
    """path: with {} for each id. body: the values that it has are sent as JSON, others as query.

    retried: as of Call; a dry run is always.
    """

    method: str
    path: str
    model: type[Result] | None
    body: type[BaseModel] | None = None
    timeout_s: float | None = None
    retried: bool = True

    def __call__(self, *ids: str, tag: str | None = None, **values: Any) -> Call[Result]:
        """tag: of the definitions that a change is based on; ANY_TAG overwrites all others.

        A value that is None is left out. A time without a zone is UTC.
        """
        if len(ids) != self.path.count("{}"):
            raise TypeError(f"{self.path} has other ids than {ids}")
        given = {name: _plain(value) for name, value in values.items() if value is not None}
        in_body = self.body.model_fields.keys() if self.body else set()
        return Call(
            self.method,
            self.path.format(*(quote(each, safe="") for each in ids)),
            self.model,
            {name: value for name, value in given.items() if name not in in_body},
            {name: given[name] for name in given if name in in_body} if self.body else None,
            self.retried or bool(given.get("dry_run")),
            {} if tag is None else {"If-Match": tag if tag == ANY_TAG else f'"{tag}"'},
            self.timeout_s,
        )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
    return to_jsonable_python(value)


USER, ALERT = "/v1/users/{}", "/v1/alerts/{}"
SEGMENT, CAMPAIGN = "/v1/segments/{}", "/v1/campaigns/{}"

profile = Route("GET", USER, models.Profile)
profile_at = Route("GET", USER, models.PastProfile)  # at: a datetime
profiles = Route("POST", "/v1/users:batchGet", models.ProfileBatch, models.BatchRequest)
deltas = Route("GET", f"{USER}/deltas", Page[models.Delta])
scores = Route("GET", f"{USER}/scores", Page[models.Score])
flags = Route("GET", f"{USER}/flags", Page[models.RiskFlag])
next_items = Route("GET", f"{USER}/next-items", models.NextItems)
interests = Route("GET", f"{USER}/interests", models.Interests)
similar = Route("GET", f"{USER}/similar", models.Lookalikes)
attributes = Route("GET", f"{USER}/attributes", Items[models.Attribute])
user_segments = Route("GET", f"{USER}/segments", Items[analyses.UserSegment])

alerts = Route("GET", "/v1/alerts", Page[models.RiskAlert])
alert = Route("GET", ALERT, models.AlertDetails)
set_state = Route("PUT", f"{ALERT}/state", models.StoredState, models.StateRequest)
label = Route("PUT", f"{ALERT}/label", models.StoredState, models.LabelRequest)
snoozes = Route("GET", f"{USER}/snoozes", Items[models.UserSnooze])
# Repeated, it would end later.
snooze = Route(
    "PUT", f"{USER}/snoozes/{{}}", models.UserSnooze, models.SnoozeRequest, retried=False
)
end_snooze = Route("DELETE", f"{USER}/snoozes/{{}}", None)
cases = Route("GET", "/v1/cases", Page[models.CustomerCase])
audit = Route("GET", "/v1/audit", Page[models.AuditRecord])

segment_members = Route("GET", f"{SEGMENT}/members", Page[analyses.SegmentMember])
segment_sizes = Route("GET", f"{SEGMENT}/sizes", Items[analyses.SizeOfSegment])
rules = Route("GET", "/v1/rules", analyses.RuleList, timeout_s=LONG_S)
segments = Route("GET", "/v1/segments", analyses.SegmentList, timeout_s=LONG_S)
put_rules = Route("PUT", "/v1/rules", analyses.AppliedChanges, analyses.RulesRequest, LONG_S)
put_segments = Route(
    "PUT", "/v1/segments", analyses.AppliedChanges, analyses.SegmentsRequest, LONG_S
)
preview_segments = Route(
    "POST", "/v1/segments:preview", analyses.PreviewAnswer, analyses.SegmentsRequest, SCAN_S
)

trend = Route("GET", "/v1/trends", analyses.Trend)
forecast = Route("GET", "/v1/trends/forecast", analyses.TrendForecast, timeout_s=LONG_S)
retention = Route("GET", "/v1/retention", Items[analyses.WeekCohort], timeout_s=SCAN_S)

campaigns = Route("GET", "/v1/campaigns", Items[analyses.CampaignAnswer])
campaign = Route("GET", CAMPAIGN, analyses.CampaignAnswer)
# Repeated after a lost answer, it would be a conflict with itself.
plan_campaign = Route(
    "PUT", CAMPAIGN, analyses.PlanSummary, analyses.CampaignRequest, SCAN_S, retried=False
)
campaign_targets = Route("GET", f"{CAMPAIGN}/targets", Page[analyses.CampaignTarget])
campaign_report = Route("GET", f"{CAMPAIGN}/report", analyses.CampaignReport, timeout_s=SCAN_S)

consents = Route("GET", f"{USER}/consents", models.UserConsents)
put_consent = Route(
    "PUT", f"{USER}/consents/{{}}", models.UserConsents, models.ConsentRequest, LONG_S
)
erasure = Route("GET", f"{USER}/erasure", models.UserErasure)
put_erasure = Route("PUT", f"{USER}/erasure", models.UserErasure, models.ErasureRequest, LONG_S)

ready = Route("GET", "/health/ready", models.Health, retried=False)
