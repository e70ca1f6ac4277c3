"""Generated requests: no 5xx, and no answer that breaks the OpenAPI document."""

from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks

from liveprofile.settings import ServeSettings
from serve.app import create_app
from serve.keys import ADMIN
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import fill

pytestmark = pytest.mark.slow

EXAMPLES = 25
BY_CONDITION = (
    "PUT /v1/rules",
    "PUT /v1/segments",
    "POST /v1/segments:preview",
    "PUT /v1/campaigns/{name}",
)
ACCEPTED = ["2xx", "3xx", "400", "404", "409"]
# The default of the check and 413: generated bodies may be too large besides.
REJECTED = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]
API = fill(MemoryApi())
KEY = API.add_key(ADMIN).text
# A busy machine must not answer with 503, which is a fault here.
SETTINGS = ServeSettings(max_requests_per_s=1e6, deadline_ms=30_000)
# Each request comes an hour later: otherwise 429 would answer many wrong keys.
HOURS = partial(next, count(step=3_600.0))
APP = create_app(SETTINGS, API.store(), clock_ms=lambda: NOW_MS, clock_s=HOURS)
load_all_checks()
# An arbitrary cursor is answered with 400, a status that nothing else has.
CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ACCEPTED},
            "negative_data_rejection": {"expected-statuses": REJECTED},
        },
        # A schema does not tell whether a condition is valid, or what If-Match must be.
        "operations": [
            {
                "include-name": name,
                "checks": {
                    "positive_data_acceptance": {
                        "expected-statuses": [*ACCEPTED, "412", "422", "428"]
                    }
                },
            }
            for name in BY_CONDITION
        ],
    }
)
schema = schemathesis.openapi.from_asgi("/v1/openapi.json", APP, config=CONFIG)


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        API.install(patch)
        yield


# pytest 9.2 takes the operation into a test's id only beside a parameter. Without it all tests have
# one id, and xdist runs one of them.
@schema.parametrize()
@pytest.mark.parametrize("key", [KEY], ids=["admin"])
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
def test_answers_keep_to_the_document(case: schemathesis.Case, key: str) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {key}"})
