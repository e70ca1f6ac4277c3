"""The queue of alerts: reading it, and an analyst's work on it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import RedirectResponse, Response

from console.access import Visitor, form_of, is_fetch
from console.formats import number, words, written
from console.job import Shared
from console.rendering import page
from liveprofile.rules.flags import ALL_RULES
from liveprofile.storage.queries import StoredFlag
from liveprofile.units import HOUR_MS
from serve.answers import PageQuery, alert_position, cursor_of
from serve.api_models import MAX_NOTE_CHARS
from serve.keys import Scope
from serve.problems import ApiError
from serve.routes.common import SEND_DEADLINE_S
from serve.security import Call
from serve.store.store import Store
from services.alerts import alerts as service
from services.alerts.flags import FlagWithState
from services.alerts.states import TRANSITIONS, AlertState
from services.requests import MAX_ID_CHARS

# A page reads the state of each flag, so it is short.
PAGE_FLAGS = 100
FRESH_S = 0.25
MAX_PAGES = 100

Position = tuple[int, str, str, str]


class AlertQueue:
    """Pages of flags, each at most FRESH_S old. clock_s: monotonic."""

    def __init__(self, store: Store, clock_s: Callable[[], float] = time.monotonic):
        self._store, self._clock_s = store, clock_s
        self._pages: dict[tuple[str, Position | None], Shared[list[FlagWithState]]] = {}
        self.forget = self._pages.clear  # the next page is read again

    async def page(self, user_id: str, after: Position | None) -> list[FlagWithState]:
        """Up to PAGE_FLAGS flags of a user, or of all if it is "", newest first.

        Raises ServiceError. A write of this process is seen after `forget`.
        """
        if len(self._pages) >= MAX_PAGES:
            self.forget()
        read = partial(self._store.alerts, user_id or None, 0, after, PAGE_FLAGS)
        shared = Shared(read, FRESH_S, self._clock_s)
        return await self._pages.setdefault((user_id, after), shared).get()


MAX_SNOOZE_H = 24 * 365
MAX_CASES = 100
# What an analyst can do: the key that does it, its label, and the state that it leads to.
ACTIONS = {
    "acknowledge": ("a", "Acknowledge", AlertState.ACKNOWLEDGED),
    "fraud": ("f", "Label as fraud", AlertState.CONFIRMED),
    "legitimate": ("l", "Label as legitimate", AlertState.FALSE_POSITIVE),
    "close": ("c", "Close", AlertState.CLOSED),
}

Reader = Annotated[Call, Depends(Visitor(Scope.RISK))]
Labeller = Annotated[Call, Depends(Visitor(Scope.RISK_WRITE, deadline_s=SEND_DEADLINE_S))]

router = APIRouter(prefix="/alerts")

StateFilter = Literal["open", "acknowledged", "confirmed", "false_positive", "closed", "all"]
IdQuery = Annotated[str, Query(max_length=MAX_ID_CHARS)]


async def _queue(
    call: Reader,
    state: StateFilter = "open",
    user: IdQuery = "",
    cursor: str | None = None,
    selected: IdQuery = "",
) -> tuple[Call, dict[str, Any]]:
    """What a page with the queue shows."""
    after = PageQuery(PAGE_FLAGS, cursor).position(int, str, str, str)
    examined = await call.request.app.state.queue.page(user, after)
    is_cut = len(examined) == PAGE_FLAGS
    return call, {
        "rows": [each for each in examined if state in ("all", each.state.state)],
        "states": [*AlertState, "all"],
        "state": state,
        "user": user,
        "cursor": cursor,
        "selected": selected,
        "older": cursor_of(alert_position(examined[-1])) if is_cut else None,
    }


Queue = Annotated[tuple[Call, dict[str, Any]], Depends(_queue)]


@router.get("")
async def alerts(found: Queue) -> Response:
    """The queue, and the selected alert, else the first."""
    call, values = found
    rows = values["rows"]
    chosen = values["selected"] or (rows[0].flag.flag_id if rows else "")
    detail = await _detail(call, chosen) if chosen else {"file": None}
    shown = {**values, **detail, "selected": chosen}
    return page(call.request, "alerts.html", **shown)


@router.get("/queue")
async def queue(found: Queue) -> Response:
    """The rows of the queue alone, which console.js asks for again and again."""
    call, values = found
    return page(call.request, "parts/alert_rows.html", **values)


@router.get("/detail")
async def detail(call: Reader, flag_id: IdQuery) -> Response:
    return page(call.request, "parts/alert_detail.html", **await _detail(call, flag_id))


@router.get("/cases")
async def cases(call: Reader, user: IdQuery = "") -> Response:
    found = await call.store.cases(user or None, None, MAX_CASES)
    found.sort(key=lambda case: (not case.is_open, -case.opened_at_ms))
    values = {"cases": found, "user": user, "is_cut": len(found) == MAX_CASES}
    return page(call.request, "cases.html", **values)


@router.post("/act")
async def act(call: Labeller) -> Response:
    """Changes an alert: fields flag_id, action, note, hours. Repeating it changes nothing."""
    fields = await form_of(call.request)
    flag_id, note = fields.get("flag_id", ""), fields.get("note", "")
    if not flag_id or len(flag_id) > MAX_ID_CHARS or len(note) > MAX_NOTE_CHARS:
        raise ApiError(422, "invalid-request", f"a note has at most {MAX_NOTE_CHARS} characters")
    said = await _act(call, flag_id, fields.get("action", ""), note, fields)
    call.request.app.state.queue.forget()
    if not is_fetch(call.request):
        return RedirectResponse(f"/alerts?selected={flag_id}&state=all", 303)
    return page(call.request, "parts/alert_detail.html", **await _detail(call, flag_id, said))


async def _detail(call: Call, flag_id: str, said: str = "") -> dict[str, Any]:
    """What the part about one alert shows. Raises UnknownFlagError."""
    file = await call.run(service.flag_file, flag_id)
    return {
        "file": file,
        "said": said,
        "actions": ACTIONS,
        "possible": TRANSITIONS[file.state.state],
        "reasons": _reasons(file.flag),
    }


def _reasons(flag: StoredFlag) -> list[tuple[str, str, str]]:
    """Sentence, value, and what it is compared with. Without a model, what the rule saw."""
    found = [
        (
            str(each.get("sentence") or words(str(each.get("code", "")))),
            written(each.get("value")),
            "" if each.get("usual") is None else f"usual: {written(each['usual'])}",
        )
        for each in flag.reasons
    ]
    return found or [(flag.message, number(flag.value), f"limit: {number(flag.threshold)}")]


async def _act(call: Call, flag_id: str, action: str, note: str, fields: dict[str, str]) -> str:
    """Returns what was done, in words."""
    if action in ("acknowledge", "close"):
        state = ACTIONS[action][-1]
        audit = call.audit("alert.state", flag_id, {"state": state.value, "note": note})
        stored = await call.run(service.set_state, flag_id, state, call.by, note, audit)
        return f"The alert is {stored.state.value}."
    if action in ("fraud", "legitimate"):
        audit = call.audit("alert.label", flag_id, {"label": action, "note": note})
        _, sent = await call.run(service.label, flag_id, action, call.by, note, audit)
        told = (
            "The label was sent to the scoring pipeline."
            if sent
            else "No label was sent: a flag of a window has no event."
        )
        return f"The alert is labelled as {action}. {told}"
    if action not in ("snooze", "end_snooze"):
        raise ApiError(422, "invalid-request", f"action {action[:40]!r} is not known")
    flag = (await call.run(service.flag_file, flag_id)).flag
    rule_id = ALL_RULES if fields.get("rule_id") == ALL_RULES else flag.rule_id
    target = f"{flag.user_id} {rule_id}"
    if action == "end_snooze":
        audit = call.audit("snooze.end", target, {})
        await call.run(service.end_snooze, flag.user_id, rule_id, audit)
        return "The snooze has ended."
    text = fields.get("hours", "8")
    hours = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= hours <= MAX_SNOOZE_H:
        raise ApiError(422, "invalid-request", f"hours: a number from 1 to {MAX_SNOOZE_H}")
    audit = call.audit("snooze.set", target, {"for_s": hours * 3_600, "note": note})
    until_ms = audit.at_ms + hours * HOUR_MS
    await call.run(service.snooze, flag.user_id, rule_id, until_ms, call.by, note, audit)
    return f"This rule sends no alerts about this user for {hours} hours."
