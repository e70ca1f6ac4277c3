"""Facts that need no Kafka or Cassandra: Flink by its REST interface, and this machine."""

import time
from pathlib import Path

import pytest

from cli.doctor.collect import FlinkFacts, flink_facts, kafka_facts, local_facts
from liveprofile.settings import load
from tests.support.http_server import flink_rest


def test_flink_facts_come_from_its_rest_interface() -> None:
    now_ms = time.time_ns() // 1_000_000
    states = ("RUNNING", "FAILED")
    managers = [{"id": "t1", "timeSinceLastHeartbeat": now_ms - 4_000}]
    answers = {
        "/overview": [
            {"flink-version": "2.2.1", "taskmanagers": 1, "slots-total": 4, "slots-available": 2}
        ],
        "/taskmanagers": [{"taskmanagers": managers}],
        "/jobs/overview": [
            {"jobs": [{"jid": n, "name": n, "state": s} for n, s in zip("ab", states, strict=True)]}
        ],
        "/jobmanager/config": [[{"key": "execution.checkpointing.dir", "value": "s3://x"}]],
        "/jobmanager/environment": [{"classpath": ["/opt/flink/lib/flink-dist-2.2.1.jar"]}],
    }
    with flink_rest(answers) as url:
        facts = flink_facts(load(flink={"rest_url": url}))
    assert facts.clock_ahead_ms == pytest.approx(4_000, abs=3_000)
    assert facts == FlinkFacts(
        version="2.2.1",
        task_managers=1,
        slots=4,
        slots_free=2,
        jobs=("a",),
        config={"execution.checkpointing.dir": "s3://x"},
        has_functions=False,
        clock_ahead_ms=facts.clock_ahead_ms,
    )


def test_service_that_does_not_answer_is_a_fact() -> None:
    settings = load(
        flink={"rest_url": "http://127.0.0.1:1"},
        kafka={"bootstrap_servers": "127.0.0.1:1", "request_timeout_ms": 100},
    )
    assert "127.0.0.1:1" in (flink_facts(settings).error or "")
    assert "127.0.0.1:1" in (kafka_facts(settings).error or "")


@pytest.mark.parametrize(
    ("folder", "writable"), [("{tmp}", True), ("/nowhere", None), ("s3://bucket", None), ("", None)]
)
def test_checkpoint_folder_is_known_on_this_machine_only(
    tmp_path: Path, folder: str, writable: bool | None
) -> None:
    uri = folder.format(tmp=tmp_path.as_uri())
    facts = local_facts(load(), FlinkFacts(config={"execution.checkpointing.dir": uri}))
    assert facts.checkpoint_folder_writable is writable
    assert facts.model_error is None and facts.embedding_dim and facts.temp_free_bytes > 0


def test_wrong_files_are_facts() -> None:
    facts = local_facts(load(model={"checkpoint": "/nowhere"}, rules="/nowhere"), FlinkFacts())
    assert "/nowhere" in (facts.model_error or "") and "/nowhere" in (facts.rules_error or "")
