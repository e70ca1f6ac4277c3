"""A client of the read API (docs/api.md), and the models that client and server share.

It needs httpx2 and pydantic only: neither the model nor Flink nor a database driver.

    with Client("http://127.0.0.1:8070", key) as client:
        profile = client.send(calls.profile("42"))
"""

from liveprofile.client import calls
from liveprofile.client.client import (
    ApiClientError,
    BadAnswerError,
    Client,
    NoAnswerError,
    NotFoundError,
    RefusedError,
)

__all__ = [
    "ApiClientError",
    "BadAnswerError",
    "Client",
    "NoAnswerError",
    "NotFoundError",
    "RefusedError",
    "calls",
]
