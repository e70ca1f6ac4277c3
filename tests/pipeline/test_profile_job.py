"""The submitted job's own path on files, in an embedded Flink, against the reference.

State left: an ended job; every window closed, since the files' end moves time to its end.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from liveprofile.config import Settings, load
from liveprofile.events.modalities import PLACE, Modality
from liveprofile.resources import product_path
from models.profile import checkpoint
from models.profile.modality_layers import Fusion
from models.profile.model_card import ModalityTrial
from tests.pipeline.harness import ProfileOutput, is_utf8, run_profile_pipeline
from tests.reference.profile import run_reference
from tests.reference.validation import REASONS_WITH_DETAIL
from tests.reference.windows import Record
from tests.support import seeded_streams, streams
from tests.support.compare import RecordingModel
from tests.support.compare_profiles import Comparison, Expected, Key, compare_window
from tests.support.seeded_streams import Message
from tests.support.shop import shop_events
from udfs.profile.profile_row import ProfileRow

pytestmark = pytest.mark.pipeline

RECORD_MS = 1_790_000_000_000


def settings_of(**window: int) -> Settings:
    return load(job={"parallelism": 1, "name": "pipeline"}, window=window)


def in_one_partition(messages: list[seeded_streams.Message]) -> list[Record]:
    records = [
        Record(0, offset, RECORD_MS, message.key, message.value)
        for offset, message in enumerate(messages)
    ]
    return [record for record in records if is_utf8(record)]


def assert_equals_reference(
    records: list[Record], output: ProfileOutput, settings: Settings
) -> None:
    """Where each record went, and every window, whatever the interleaving made late."""
    late = {sent.position for sent in output.sent_to(settings.topics.late)}
    scores = RecordingModel(settings)
    rules = tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]
    expected = run_reference(records, settings, late=late, score=scores, rules=rules)
    assert expected.late == late

    rejected = {sent.position: sent.headers for sent in output.sent_to(settings.topics.rejected)}
    assert rejected.keys() == expected.rejected.keys()
    values = {(record.partition, record.offset): record.value for record in records}
    for sent in output.sent_to(settings.topics.rejected):
        reason, detail = expected.rejected[sent.position]
        assert sent.headers["reason"] == reason, sent
        if reason in REASONS_WITH_DETAIL:
            assert sent.headers["detail"] == detail, sent
        value = values[sent.position]
        assert sent.value == (None if value is None else value.decode())

    found = Comparison()
    stored = {Key(*key): row for key, row in output.sink.deltas.items()}
    assert stored.keys() == expected.profiles.keys()
    for (key, profile), score in zip(expected.profiles.items(), scores.scores, strict=True):
        row = stored[Key(*key)]
        compare_window(found, Key(*key), as_stored(row), Expected(profile, score, cut=False))
        found.equal("rules", key, set(row.active_rules), set(profile.active_rules))
        found.equal("flags", key, *({flag.flag_id for flag in x.flags} for x in (row, profile)))
    assert found.ok, json.dumps(found.as_json(), indent=2)

    alerts = [json.loads(sent.value or "") for sent in output.sent_to(settings.topics.alerts)]
    flags = [flag.flag_id for profile in expected.profiles.values() for flag in profile.flags]
    assert Counter(alert["id"] for alert in alerts) == Counter(flags)


def as_stored(row: ProfileRow) -> SimpleNamespace:
    """The row as liveprofile.storage.queries.StoredDelta has it."""
    return SimpleNamespace(**row._asdict() | {"delta": row.delta_json})


@pytest.mark.parametrize("stagger_ms", [0, 10_000])
def test_a_mixed_stream_equals_the_reference(stagger_ms: int, tmp_path: Path) -> None:
    settings = settings_of(stagger_ms=stagger_ms)
    records = in_one_partition(
        seeded_streams.with_faults(islice(shop_events(7, 25, 20_000), 2_000), seed=7).messages
    )
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)


def reads_media(folder: Path) -> Path:
    """The shipped checkpoint with random weights for two encoders and the place."""
    network, items, categories, card = checkpoint.load(product_path(Settings().model.checkpoint))
    kept = [Modality("clip", 3), PLACE, Modality("voice.v2", 2)]
    network.fusion = Fusion(network.shape.dim, kept)
    torch.manual_seed(2)
    for weight in network.fusion.weights:
        torch.nn.init.normal_(weight, std=0.5)
    fields = card.model_dump(exclude={"format", "shape", "sha256", "modalities"})
    tried = [
        ModalityTrial(name=one.name, numbers=one.numbers, kept=True, metrics={}) for one in kept
    ]
    checkpoint.save(folder, network, items, categories, **fields, modalities=tried)
    return folder


def with_media(event: dict[str, Any], number: int) -> dict[str, Any]:
    """Every kind of vector in turn: good ones, unknown ones, broken ones, none."""
    x = number % 7 - 3
    kinds = (
        {"encoder": "clip", "vector": [x, 2.5, -1]},
        {"encoder": "voice.v2", "vector": [x, 0.25]},
        {"encoder": "clip", "vector": [1, x + 0.5]},
        {"encoder": "other", "vector": [1]},
        {"encoder": "clip", "vector": ["1", 2, 3]},
        None,
    )
    return event | {"media_embedding": kinds[number % len(kinds)]}


def test_what_events_bring_beside_tokens_reaches_the_model(tmp_path: Path) -> None:
    checkpoint_folder = reads_media(tmp_path / "model")
    settings = load(
        job={"parallelism": 1, "name": "pipeline"}, model={"checkpoint": str(checkpoint_folder)}
    )
    events = [with_media(e, n) for n, e in enumerate(islice(shop_events(3, 6, 20_000), 300))]
    records = in_one_partition(
        [Message(e["user_id"].encode(), json.dumps(e).encode()) for e in events]
    )
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)

    scores = RecordingModel(settings)
    expected = run_reference(records, settings, late=set(), score=scores)
    said = dict(zip(expected.profiles, scores.scores, strict=True))
    without = RecordingModel(settings)
    without.model.modalities = frozenset()
    run_reference(records, settings, late=set(), score=without)
    plain = dict(zip(expected.profiles, without.scores, strict=True))
    moved = 0
    for key, row in output.sink.deltas.items():
        interests = list(orjson.loads(row.profile_json)["interests"].values())
        np.testing.assert_allclose(interests, said[key].interests_after_p[0], atol=2e-4)
        moved += abs(said[key].interests_after_p - plain[key].interests_after_p).max() > 0.01
    assert moved > 0.5 * len(said)
    read = [
        orjson.loads(row.delta_json)["window"].get("media") for row in output.sink.deltas.values()
    ]
    assert ["clip", "voice.v2"] in read and None in read


def test_payloads_written_anyhow_equal_the_reference(tmp_path: Path) -> None:
    settings = settings_of()
    records = in_one_partition(seeded_streams.payload_variants(1_500, seed=3))
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)


def test_poison_does_not_stop_the_job(tmp_path: Path) -> None:
    settings = settings_of()
    good = list(islice(shop_events(1, 5, 20_000), 200))
    messages = seeded_streams.with_faults(good, seed=1).messages + seeded_streams.poison_messages(
        300, seed=2
    )
    records = in_one_partition(messages)
    output = run_profile_pipeline(records, settings, tmp_path)
    used = b"".join(row.digests for row in output.sink.deltas.values())
    gone = {sent.position for sent in output.sent if "offset" in sent.headers}
    assert len(used) // 8 >= len(good)
    assert len(gone) == len([sent for sent in output.sent if "offset" in sent.headers])


@hypothesis_settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an embedded Flink takes seconds: no shrinking here
    suppress_health_check=list(HealthCheck),
)
@given(records=streams.behaviour_stream(partitions=1, max_events=60, wrong_types=True))
def test_any_stream_equals_the_reference(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = settings_of()
    sent = [record for record in records if is_utf8(record)]
    output = run_profile_pipeline(sent, settings, tmp_path_factory.mktemp("any"))
    assert_equals_reference(sent, output, settings)
