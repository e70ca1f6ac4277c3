"""A client of the read API (docs/api.md), and the models of what the server takes and answers.

The client needs httpx2 only: neither the model nor Flink nor a database driver.

    with Client("http://127.0.0.1:8070", key) as client:
        profile = client.send(calls.profile("42"))
"""

from liveprofile_client import calls
from liveprofile_client.client import (
    Answer,
    ApiClientError,
    BadAnswerError,
    Client,
    NoAnswerError,
    NotFoundError,
    RefusedError,
)

__all__ = [
    "Answer",
    "ApiClientError",
    "BadAnswerError",
    "Client",
    "NoAnswerError",
    "NotFoundError",
    "RefusedError",
    "calls",
]
