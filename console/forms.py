"""Reads posted forms: `application/x-www-form-urlencoded`, as browsers send them."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from serve.problems import ApiError

MAX_FIELDS = 50


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of two with one name the last. Raises ApiError 422."""
    body = await request.body()
    try:
        fields = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            max_num_fields=MAX_FIELDS,
            errors="strict",
        )
    except ValueError:  # UnicodeDecodeError too
        raise ApiError(422, "invalid-request", "the form is not readable") from None
    return dict(fields)
