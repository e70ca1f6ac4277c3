"""The queue of alerts: reading it, and an analyst's work on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from console.access import THROUGH, Analyst, Reader, form_of, is_fetch
from console.formats import number, words, written
from console.job import Shared
from console.rendering import page
from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.alerts.cases.snooze import ALL_RULES
from liveprofile.alerts.cases.states import TRANSITIONS, AlertState
from liveprofile.client.models import MAX_ID_CHARS, MAX_NOTE_CHARS
from liveprofile.storage.queries import StoredFlag
from liveprofile.units import HOUR_MS
from serve.answers import PageQuery, alert_position, cursor_of
from serve.guard import extend_deadline
from serve.problems import ApiError
from serve.routes.common import SEND_DEADLINE_S, DataStore, audit_entry
from serve.security import Caller
from serve.store.store import Store
from services import alerts as service
from services.audit import AuditEntry

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

    async def page(self, user_id: str, after: Position | None) -> list[FlagWithState]:
        """Up to PAGE_FLAGS flags of a user, or of all if it is "", newest first.

        Raises ServiceError. A write of this process is seen after `forget`.
        """
        if len(self._pages) >= MAX_PAGES:
            self.forget()
        read = partial(self._store.alerts, user_id or None, 0, after, PAGE_FLAGS)
        shared = Shared(read, FRESH_S, self._clock_s)
        return await self._pages.setdefault((user_id, after), shared).get()

    def forget(self) -> None:
        """The next page is read again."""
        self._pages.clear()


MAX_SNOOZE_H = 24 * 365
MAX_CASES = 100
# What an analyst can do: the key that does it, its label, and the state that it leads to.
ACTIONS = {
    "acknowledge": ("a", "Acknowledge", AlertState.ACKNOWLEDGED),
    "fraud": ("f", "Label as fraud", AlertState.CONFIRMED),
    "legitimate": ("l", "Label as legitimate", AlertState.FALSE_POSITIVE),
    "close": ("c", "Close", AlertState.CLOSED),
}

router = APIRouter(prefix="/alerts")

StateFilter = Literal["open", "acknowledged", "confirmed", "false_positive", "closed", "all"]
IdQuery = Annotated[str, Query(max_length=MAX_ID_CHARS)]


async def _queue(
    request: Request,
    caller: Reader,
    state: StateFilter = "open",
    user: IdQuery = "",
    cursor: str | None = None,
    selected: IdQuery = "",
) -> dict[str, Any]:
    """What a page with the queue shows."""
    after = PageQuery(PAGE_FLAGS, cursor).position(int, str, str, str)
    alert_queue: AlertQueue = request.app.state.queue
    examined = await alert_queue.page(user, after)
    is_cut = len(examined) == PAGE_FLAGS
    return {
        "rows": [each for each in examined if state in ("all", each.state.state)],
        "states": [*AlertState, "all"],
        "state": state,
        "user": user,
        "cursor": cursor,
        "selected": selected,
        "older": cursor_of(alert_position(examined[-1])) if is_cut else None,
    }


Queue = Annotated[dict[str, Any], Depends(_queue)]


@router.get("")
async def alerts(request: Request, values: Queue) -> Response:
    """The queue, and the selected alert, else the first."""
    rows = values["rows"]
    chosen = values["selected"] or (rows[0].flag.flag_id if rows else "")
    detail = await _detail(request, chosen) if chosen else {"file": None}
    return page(request, "alerts.html", **values | detail | {"selected": chosen})


@router.get("/queue")
async def queue(request: Request, values: Queue) -> Response:
    """The rows of the queue alone, which console.js asks for again and again."""
    return page(request, "parts/alert_rows.html", **values)


@router.get("/detail")
async def detail(request: Request, caller: Reader, flag_id: IdQuery) -> Response:
    return page(request, "parts/alert_detail.html", **await _detail(request, flag_id))


@router.get("/cases")
async def cases(request: Request, store: DataStore, caller: Reader, user: IdQuery = "") -> Response:
    found = await store.cases(user or None, None, MAX_CASES)
    found.sort(key=lambda case: (not case.is_open, -case.opened_at_ms))
    return page(request, "cases.html", cases=found, user=user, is_cut=len(found) == MAX_CASES)


@router.post("/act")
async def act(request: Request, caller: Analyst) -> Response:
    """Changes an alert: fields flag_id, action, note, hours. Repeating it changes nothing."""
    fields = await form_of(request)
    flag_id, action = fields.get("flag_id", ""), fields.get("action", "")
    note = fields.get("note", "")
    if not flag_id or len(flag_id) > MAX_ID_CHARS or len(note) > MAX_NOTE_CHARS:
        raise ApiError(422, "invalid-request", f"a note has at most {MAX_NOTE_CHARS} characters")
    said = await _act(request, caller, flag_id, action, note, fields)
    request.app.state.queue.forget()
    if not is_fetch(request):
        return RedirectResponse(f"/alerts?selected={flag_id}&state=all", 303)
    return page(request, "parts/alert_detail.html", **await _detail(request, flag_id, said))


async def _detail(request: Request, flag_id: str, said: str = "") -> dict[str, Any]:
    """What the part about one alert shows. Raises UnknownFlagError."""
    file = await request.app.state.store.run(service.flag_file, flag_id)
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


async def _act(
    request: Request,
    caller: Caller,
    flag_id: str,
    action: str,
    note: str,
    fields: dict[str, str],
) -> str:
    """Returns what was done, in words."""
    store: Store = request.app.state.store
    match action:
        case "acknowledge" | "close":
            state = AlertState.ACKNOWLEDGED if action == "acknowledge" else AlertState.CLOSED
            requested: dict[str, Any] = {"state": state.value, "note": note}
            audit = _audit(request, caller, "alert.state", flag_id, requested)
            stored = await store.run(service.set_state, flag_id, state, caller.name, note, audit)
            return f"The alert is {stored.state.value}."
        case "fraud" | "legitimate":
            extend_deadline(request, SEND_DEADLINE_S)
            requested = {"label": action, "note": note}
            audit = _audit(request, caller, "alert.label", flag_id, requested)
            _, sent = await store.run(service.label, flag_id, action, caller.name, note, audit)
            if sent:
                told = "The label was sent to the scoring pipeline."
            else:
                told = "No label was sent: a flag of a window has no event."
            return f"The alert is labelled as {action}. {told}"
        case "snooze" | "snooze_all" | "end_snooze":
            flag = (await store.run(service.flag_file, flag_id)).flag
            every = action == "snooze_all" or fields.get("rule_id") == ALL_RULES
            rule_id = ALL_RULES if every else flag.rule_id
            target = f"{flag.user_id} {rule_id}"
            if action == "end_snooze":
                audit = _audit(request, caller, "snooze.end", target, {})
                await store.run(service.end_snooze, flag.user_id, rule_id, audit)
                return "The snooze has ended."
            hours = _hours(fields.get("hours", "8"))
            requested = {"for_s": hours * 3_600, "note": note}
            audit = _audit(request, caller, "snooze.set", target, requested)
            until_ms = audit.at_ms + hours * HOUR_MS
            await store.run(
                service.snooze, flag.user_id, rule_id, until_ms, caller.name, note, audit
            )
            return f"This rule sends no alerts about this user for {hours} hours."
    raise ApiError(422, "invalid-request", f"action {action[:40]!r} is not known")


def _hours(text: str) -> int:
    hours = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= hours <= MAX_SNOOZE_H:
        raise ApiError(422, "invalid-request", f"hours: a number from 1 to {MAX_SNOOZE_H}")
    return hours


def _audit(
    request: Request, caller: Caller, action: str, target: str, requested: dict[str, Any]
) -> AuditEntry:
    return audit_entry(request, caller, action, target, requested | THROUGH)
