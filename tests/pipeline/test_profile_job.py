"""The profile pipeline on files, in an embedded Flink, against tests/reference/profile.py.

Final state: the job has ended and every window is closed, because the end of the input advances the
watermark to its maximum.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from liveprofile.events.modalities import PLACE, Modality
from liveprofile.resources import product_path
from liveprofile.settings import Settings, load
from models.profile import checkpoint
from models.profile.model_card import ModalityTrial
from models.profile.network import Fusion
from tests.pipeline.comparison import assert_equals_reference, in_one_partition
from tests.pipeline.harness import is_utf8, run_profile_pipeline
from tests.reference.profile import run_reference
from tests.reference.windows import Record
from tests.support.model_scores import RecordingModel, Scored
from tests.support.streams import seeded, strategies
from tests.support.streams.seeded import Message
from tests.support.streams.shop import shop_events

pytestmark = pytest.mark.pipeline


def make_settings(**window: int) -> Settings:
    return load(job={"parallelism": 1, "name": "pipeline"}, window=window)


@pytest.mark.parametrize("stagger_ms", [0, 10_000])
def test_stream_with_faults_equals_reference(stagger_ms: int, tmp_path: Path) -> None:
    settings = make_settings(stagger_ms=stagger_ms)
    records = in_one_partition(
        seeded.with_faults(islice(shop_events(7, 25, 20_000), 2_000), seed=7).messages
    )
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)


@pytest.mark.parametrize(
    "limits", [{"max_window_events": 3}, {"max_window_chars": 1_024}], ids=["events", "characters"]
)
def test_window_takes_no_more_than_its_limits(limits: dict[str, int], tmp_path: Path) -> None:
    settings = load(job={"parallelism": 1, "name": "pipeline"}, limits=limits)
    records = in_one_partition(
        seeded.with_faults(islice(shop_events(5, 4, 10_000), 600), seed=5).messages
    )
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)
    reasons = Counter(sent.headers["reason"] for sent in output.sent_to(settings.topics.rejected))
    assert reasons["TOO_MANY"] > 100


def checkpoint_with_modalities(folder: Path) -> Path:
    """Saves the shipped model checkpoint with random weights for two encoders and the place."""
    network, items, categories, card = checkpoint.load(product_path(Settings().model.checkpoint))
    modalities = [Modality("clip", 3), PLACE, Modality("voice.v2", 2)]
    network.fusion = Fusion(network.shape.dim, modalities)
    torch.manual_seed(2)
    for weight in network.fusion.weights:
        torch.nn.init.normal_(weight, std=0.5)
    fields = card.model_dump(exclude={"format", "shape", "sha256", "modalities"})
    trials = [
        ModalityTrial(name=modality.name, numbers=modality.numbers, kept=True, metrics={})
        for modality in modalities
    ]
    checkpoint.save(folder, network, items, categories, **fields, modalities=trials)
    return folder


def with_media(event: dict[str, Any], number: int) -> dict[str, Any]:
    """Adds one kind of vector after the other: known, unknown, malformed, none."""
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


def test_vectors_of_events_reach_the_model(tmp_path: Path) -> None:
    checkpoint_folder = checkpoint_with_modalities(tmp_path / "model")
    settings = load(
        job={"parallelism": 1, "name": "pipeline"}, model={"checkpoint": str(checkpoint_folder)}
    )
    events = [
        with_media(event, number)
        for number, event in enumerate(islice(shop_events(3, 6, 20_000), 300))
    ]
    records = in_one_partition(
        [Message(event["user_id"].encode(), json.dumps(event).encode()) for event in events]
    )
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)

    model = RecordingModel(Scored(settings))
    expected = run_reference(records, settings, late=set(), score=model)
    with_vectors = dict(zip(expected.profiles, model.scores, strict=True))
    blind_model = RecordingModel(Scored(settings))
    blind_model.scored.model.modalities = frozenset()
    run_reference(records, settings, late=set(), score=blind_model)
    without_vectors = dict(zip(expected.profiles, blind_model.scores, strict=True))
    changed = 0
    for key, row in output.sink.deltas.items():
        interests = list(orjson.loads(row.profile)["interests"].values())
        with_p, without_p = (
            scored[key].values.interests_after_p[0] for scored in (with_vectors, without_vectors)
        )
        np.testing.assert_allclose(interests, with_p, atol=2e-4)
        changed += abs(with_p - without_p).max() > 0.01
    assert changed > 0.5 * len(with_vectors)
    media = [orjson.loads(row.delta)["window"].get("media") for row in output.sink.deltas.values()]
    assert ["clip", "voice.v2"] in media and None in media


def test_payload_variants_equal_reference(tmp_path: Path) -> None:
    settings = make_settings()
    records = in_one_partition(seeded.payload_variants(1_500, seed=3))
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)


def test_poison_messages_do_not_stop_the_job(tmp_path: Path) -> None:
    settings = make_settings()
    valid = list(islice(shop_events(1, 5, 20_000), 200))
    messages = seeded.with_faults(valid, seed=1).messages + seeded.poison_messages(300, seed=2)
    records = in_one_partition(messages)
    output = run_profile_pipeline(records, settings, tmp_path)
    used_digests = b"".join(row.digests for row in output.sink.deltas.values())
    positions = [sent.position for sent in output.sent if "offset" in sent.headers]
    assert len(used_digests) // 8 >= len(valid)
    assert len(set(positions)) == len(positions)


@hypothesis_settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # no shrinking: a run of embedded Flink takes seconds
    suppress_health_check=list(HealthCheck),
)
@given(records=strategies.behaviour_stream(partitions=1, max_events=60, wrong_types=True))
def test_generated_stream_equals_reference(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = make_settings()
    sent = [record for record in records if is_utf8(record)]
    output = run_profile_pipeline(sent, settings, tmp_path_factory.mktemp("any"))
    assert_equals_reference(sent, output, settings)
