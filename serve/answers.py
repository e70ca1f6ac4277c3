"""Turns stored rows into answers: JSON that serve/openapi.py describes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import Request
from starlette.responses import Response

from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.storage.queries import names_of
from liveprofile.value_curves import (
    KEY,
    STORED_COLUMNS,
    reading_time_ms,
    values_at,
)
from serve.paging import Position, cursor_of
from serve.store.protocol import FlagFile, RawDelta, RawProfile


def json_response(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), 200, headers, "application/json")


def tagged_response(request: Request, value: Any, tag: str | None = None) -> Response:
    """The answer with an ETag, or 304 if the caller has it already (RFC 9110, 13.1.2).

    tag: of the value; by default a digest of it.
    """
    body = orjson.dumps(value)
    tag = f'"{tag or hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in {
        each.strip().removeprefix("W/") for each in known.split(",")
    }:
        return Response(None, 304, headers)
    return Response(body, 200, headers, "application/json")


def page_response(
    items: Iterable[dict[str, Any]],
    examined: Sequence[Any],
    limit: int,
    position: Callable[[Any], Position],
) -> Response:
    """A page with the cursor after the last row that was examined.

    examined: rows that were asked for with `limit`; fewer mean that there is no next page.
    """
    cursor = cursor_of(position(examined[-1])) if len(examined) >= limit else None
    return json_response({"items": list(items), "next_cursor": cursor})


def profile_answer(row: RawProfile, now_ms: int) -> dict[str, Any]:
    """The row, with churn and expected spend as of now if it has a curve."""
    # Fragment copies the JSON as it is stored.
    answer = row._asdict() | {
        "segments": names_of(row.segments),
        "profile": orjson.Fragment(row.profile),
        "values_at_ms": row.window_end_ms,
    }
    if KEY in row.profile and (document := orjson.loads(row.profile)).get(KEY):
        at_ms = reading_time_ms(now_ms, row.window_end_ms)
        stored = {name: answer[name] for name in STORED_COLUMNS}
        values = values_at(document, stored, row.window_end_ms, at_ms)
        answer |= {name: values[name] for name in STORED_COLUMNS} | {"values_at_ms": at_ms}
    if row.embedding is None:
        del answer["embedding"]
    return answer


def past_answer(row: RawDelta, at_ms: int) -> dict[str, Any]:
    """What the delta says about the profile after its window, with the values at that time."""
    delta = orjson.loads(row.delta)
    features = delta.get("after") or {}
    values = values_at(delta, features, row.window_end_ms, at_ms)
    return {
        "user_id": row.user_id,
        "at_ms": at_ms,
        "window_start_ms": row.window_start_ms,
        "window_end_ms": row.window_end_ms,
        "model_version": row.model_version,
        **{name: values[name] for name in STORED_COLUMNS},
        "features": features,
    }


def delta_answer(row: RawDelta) -> dict[str, Any]:
    return row._asdict() | {
        "active_rules": names_of(row.active_rules),
        "delta": orjson.Fragment(row.delta),
    }


def alert_answer(row: FlagWithState) -> dict[str, Any]:
    return row.flag._asdict() | row.state._asdict()


def details_answer(file: FlagFile) -> dict[str, Any]:
    return alert_answer(FlagWithState(file.flag, file.state)) | {
        "history": [change._asdict() for change in file.history],
        "snoozes": [snooze._asdict() for snooze in file.snoozes],
        "cases": [case._asdict() for case in file.cases],
    }
