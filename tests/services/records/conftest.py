"""One job for all tests of this folder, whose files run by name: event time only goes forward.

test_hostile_clients uses the first day, test_partitions the third, test_ranges the 31st;
test_unaccounted deletes a row, ends the job and uses the present. Records keep the times that a
test gives them, and do not expire although these are past.
"""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from liveprofile.kafka.connection import client_config
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.job_under_test import TWO_TASKS, JobUnderTest

OUT_OF_ORDERNESS_MS = 10_000
WINDOW = {
    "length_ms": MINUTE_MS,
    "out_of_orderness_ms": OUT_OF_ORDERNESS_MS,
    "max_partition_drift_ms": HOUR_MS,
}
LIMITS = {"max_window_events": 300, "max_window_chars": 500_000}


@pytest.fixture(scope="package")
def job(new_job: Callable[..., JobUnderTest]) -> Iterator[JobUnderTest]:
    job = new_job("records", job=TWO_TASKS, window=WINDOW, limits=LIMITS)
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in (("message.timestamp.type", "CreateTime"), ("retention.ms", "-1"))
    ]
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, job.settings.topics.events, incremental_configs=entries
    )
    admin = AdminClient(client_config(job.settings.kafka))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    job.submit()
    yield job
    job.cancel()
