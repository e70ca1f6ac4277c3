"""The retry policy of reads."""

from __future__ import annotations

import pytest

from liveprofile import retry
from liveprofile.errors import ServiceError, ServiceUnavailableError


class Service:
    """Raises one error for each call until none is left, then answers."""

    def __init__(self, *errors: Exception):
        self._errors = list(errors)
        self.calls = 0

    def read(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def test_read_is_repeated_until_the_service_answers() -> None:
    service = Service(ServiceUnavailableError("slow"), ServiceUnavailableError("slow"))
    assert retry.until_deadline(service.read) == "answer"
    assert service.calls == 3


def test_refused_read_is_not_repeated() -> None:
    service = Service(ServiceError("no such table"))
    with pytest.raises(ServiceError, match="no such table"):
        retry.until_deadline(service.read)
    assert service.calls == 1
