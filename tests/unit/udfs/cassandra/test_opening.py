"""Opening a sink while Cassandra is slow: a time-out must not restart the job."""

import time

import pytest
from cassandra import InvalidRequest, OperationTimedOut

from liveprofile.errors import ConfigError
from liveprofile.setting_sections import CassandraSettings
from udfs.cassandra.sink import open_patiently


class FlakySink:
    """Fails with each of the errors in turn, then opens."""

    def __init__(self, *errors: Exception):
        self.errors, self.attempts = list(errors), 0

    def open(self) -> str:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return "open"


def test_sink_is_opened_again_after_time_outs() -> None:
    sink = FlakySink(OperationTimedOut("busy"), OperationTimedOut("busy"))
    assert open_patiently(sink.open, CassandraSettings()) == "open"
    assert sink.attempts == 3


@pytest.mark.parametrize("error", [InvalidRequest("no table"), ConfigError("other size")])
def test_errors_that_stay_are_raised_at_once(error: Exception) -> None:
    sink = FlakySink(error)
    with pytest.raises(type(error)):
        open_patiently(sink.open, CassandraSettings())
    assert sink.attempts == 1


def test_last_error_is_raised_after_the_timeout() -> None:
    sink = FlakySink(*[OperationTimedOut("busy")] * 1_000)
    started_s = time.monotonic()
    with pytest.raises(OperationTimedOut):
        open_patiently(sink.open, CassandraSettings(retry_timeout_ms=500))
    assert 0.3 < time.monotonic() - started_s < 30
