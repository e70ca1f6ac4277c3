"""An upgrade leaves the new job, the old one, or a message that names the savepoint."""

from collections.abc import Callable

import pytest

from cli.submission import replace_job
from liveprofile.errors import ConfigError, ServiceError

SAVEPOINT = "file:/savepoints/savepoint-1"


def starts(job_id: str) -> Callable[[str], str]:
    return lambda savepoint: f"{job_id} from {savepoint}"


def fails(reason: str) -> Callable[[str], str]:
    def start(savepoint: str) -> str:
        raise ConfigError(reason)

    return start


def test_failed_upgrade_without_fallback_names_the_way_back() -> None:
    with pytest.raises(ServiceError) as failed:
        replace_job(lambda: SAVEPOINT, fails("no model"), None)
    assert "no model" in str(failed.value)
    assert f"`liveprofile job submit --savepoint {SAVEPOINT} --wait`" in str(failed.value)


def test_failed_fallback_names_both_reasons_and_the_savepoint() -> None:
    with pytest.raises(ServiceError, match=r"no model.*no slot") as failed:
        replace_job(lambda: SAVEPOINT, fails("no model"), fails("no slot"))
    assert SAVEPOINT in str(failed.value)


def test_nothing_starts_if_the_savepoint_fails() -> None:
    def stop() -> str:
        raise ServiceError("no savepoint")

    with pytest.raises(ServiceError, match=r"^no savepoint$"):
        replace_job(stop, fails("must not start"), fails("must not start"))
