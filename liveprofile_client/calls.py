"""The routes of the API, each a function from the ids of its path and named values to a call.

    calls.profile("42", embedding=True)
    calls.snooze("42", "*", for_s=3_600)  # "*": all rules
    calls.put_rules(rules=[...], tag=rules.tag, dry_run=True)

`Client.send` returns the answer of a call. docs/api.md describes the routes, their values and
answers. The server refuses unknown ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from urllib.parse import quote

ANY_TAG = "*"
# Longer than the server takes at most for definitions.
LONG_S = 20.0
# Longer than an analysis of all users may take with the default settings.
SCAN_S = 40.0
IN_QUERY = frozenset({"dry_run", "at"})  # also of requests with a body


class Call(NamedTuple):
    """One request. `retried`: it only reads, or repeating it changes nothing."""

    method: str
    path: str
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


@dataclass(frozen=True)
class Route:
    """path: with {} for each id. retried: as of Call; a dry run is always."""

    method: str
    path: str
    timeout_s: float | None = None
    retried: bool = True

    def __call__(self, *ids: str, tag: str | None = None, **values: Any) -> Call:
        """tag: of the definitions that a change is based on; ANY_TAG overwrites all others.

        A value that is None is left out. A time without a zone is UTC.
        """
        if len(ids) != self.path.count("{}"):
            raise TypeError(f"{self.path} has other ids than {ids}")
        given = {name: _plain(value) for name, value in values.items() if value is not None}
        has_body = self.method in ("POST", "PUT")
        in_query = {name for name in given if not has_body or name in IN_QUERY}
        return Call(
            self.method,
            self.path.format(*(quote(each, safe="") for each in ids)),
            {name: given[name] for name in given if name in in_query},
            {name: given[name] for name in given if name not in in_query} if has_body else None,
            self.retried or bool(given.get("dry_run")),
            {} if tag is None else {"If-Match": tag if tag == ANY_TAG else f'"{tag}"'},
            self.timeout_s,
        )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
    return value


USER, ALERT = "/v1/users/{}", "/v1/alerts/{}"
SEGMENT, CAMPAIGN = "/v1/segments/{}", "/v1/campaigns/{}"

profile = Route("GET", USER)
profiles = Route("POST", "/v1/users:batchGet")
deltas = Route("GET", f"{USER}/deltas")
scores = Route("GET", f"{USER}/scores")
flags = Route("GET", f"{USER}/flags")
next_items = Route("GET", f"{USER}/next-items")
interests = Route("GET", f"{USER}/interests")
similar = Route("GET", f"{USER}/similar")
attributes = Route("GET", f"{USER}/attributes")
user_segments = Route("GET", f"{USER}/segments")

alerts = Route("GET", "/v1/alerts")
alert = Route("GET", ALERT)
set_state = Route("PUT", f"{ALERT}/state")
label = Route("PUT", f"{ALERT}/label")
snoozes = Route("GET", f"{USER}/snoozes")
# Repeated, it would end later.
snooze = Route("PUT", f"{USER}/snoozes/{{}}", retried=False)
end_snooze = Route("DELETE", f"{USER}/snoozes/{{}}")
cases = Route("GET", "/v1/cases")
audit = Route("GET", "/v1/audit")

segment_members = Route("GET", f"{SEGMENT}/members")
segment_sizes = Route("GET", f"{SEGMENT}/sizes")
rules = Route("GET", "/v1/rules", LONG_S)
segments = Route("GET", "/v1/segments", LONG_S)
put_rules = Route("PUT", "/v1/rules", LONG_S)
put_segments = Route("PUT", "/v1/segments", LONG_S)
preview_segments = Route("POST", "/v1/segments:preview", SCAN_S)

trend = Route("GET", "/v1/trends")
forecast = Route("GET", "/v1/trends/forecast", LONG_S)

campaigns = Route("GET", "/v1/campaigns")
campaign = Route("GET", CAMPAIGN)
# Repeated after a lost answer, it would be a conflict with itself.
plan_campaign = Route("PUT", CAMPAIGN, SCAN_S, retried=False)
campaign_targets = Route("GET", f"{CAMPAIGN}/targets")
campaign_report = Route("GET", f"{CAMPAIGN}/report", SCAN_S)

consents = Route("GET", f"{USER}/consents")
put_consent = Route("PUT", f"{USER}/consents/{{}}", LONG_S)
erasure = Route("GET", f"{USER}/erasure")
put_erasure = Route("PUT", f"{USER}/erasure", LONG_S)

ready = Route("GET", "/health/ready", retried=False)
