"""The retry policy of reads."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from liveprofile import retry
from liveprofile.errors import ServiceError, ServiceUnavailableError


def test_read_is_repeated_until_the_service_answers_or_refuses() -> None:
    read = Mock(side_effect=[*2 * [ServiceUnavailableError("slow")], "answer"])
    assert retry.until_deadline(read) == "answer" and read.call_count == 3
    read = Mock(side_effect=ServiceError("no such table"))
    with pytest.raises(ServiceError, match="no such table"):
        retry.until_deadline(read)
    assert read.call_count == 1
