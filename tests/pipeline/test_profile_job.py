"""The profile pipeline on files, in an embedded Flink, against tests/reference/profile.py.

Final state: the job has ended and every window is closed, because the end of the input advances the
watermark to its maximum. Staggered windows, erasures and merges: test_erasures_and_merges.py.
"""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from liveprofile.events.modalities import PLACE, Modality
from liveprofile.settings import Settings, load
from models.profile.inference import ProfileModel
from tests.pipeline.comparison import assert_equals_reference, in_one_partition
from tests.pipeline.harness import is_utf8, run_profile_pipeline
from tests.reference.profile import run_reference
from tests.reference.windows import Record
from tests.support.model_scores import WindowScores, load_model, run_scored
from tests.support.shop_model import save_shop_model
from tests.support.streams import seeded, strategies
from tests.support.streams.shop import shop_events

JOB = {"parallelism": 1, "name": "pipeline"}


MODALITIES = (Modality("clip", 3), PLACE, Modality("voice.v2", 2))


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


def test_stream_with_faults_vectors_and_odd_payloads_equals_reference(tmp_path: Path) -> None:
    """The messages that poison a parser are last: none may stop the job or be lost."""
    folder = save_shop_model(tmp_path / "model", MODALITIES)
    settings = load(job=JOB, model={"checkpoint": str(folder)})
    events = map(with_media, shop_events(7, 8, 20_000), range(900))
    stream = seeded.with_faults(events, seed=7, duplicates=0.02, late=0.02, broken=0.02)
    variants, poison = seeded.payload_variants(1_500, seed=3), seeded.poison_messages(300, seed=2)
    records = in_one_partition(stream.messages + variants + poison)
    output = run_profile_pipeline(records, settings, tmp_path)
    expected = assert_equals_reference(records, output, settings)
    reasons = Counter(reason for reason, _ in expected.rejected.values())
    assert len(reasons) > 8 and len(expected.late) > 10

    # The vectors change the interests.
    with_media_only = in_one_partition(stream.messages)
    with_vectors = scores_by_window(with_media_only, settings, load_model(settings))
    blind = load_model(settings)
    blind.modalities = frozenset()
    without_vectors = scores_by_window(with_media_only, settings, blind)
    changed = 0
    for key, scores in with_vectors.items():
        interests = list(orjson.loads(output.sink.deltas[key].profile)["interests"].values())
        with_p, without_p = (
            each.values.interests_after_p[0] for each in (scores, without_vectors[key])
        )
        np.testing.assert_allclose(interests, with_p[: len(interests)], atol=2e-4)
        changed += abs(with_p - without_p).max() > 0.01
    assert changed > 0.5 * len(with_vectors)
    media = [orjson.loads(row.delta)["window"].get("media") for row in output.sink.deltas.values()]
    assert ["clip", "voice.v2"] in media and None in media


def scores_by_window(
    records: list[Record], settings: Settings, model: ProfileModel
) -> dict[tuple[str, int], WindowScores]:
    expected, scores = run_scored(
        model, lambda score: run_reference(records, settings, score=score)
    )
    return dict(zip(expected.profiles, scores, strict=True))


def test_window_takes_no_more_than_its_limits(tmp_path: Path) -> None:
    """Long events of some users reach the limit of characters first, others that of events."""
    settings = load(job=JOB, limits={"max_window_events": 4, "max_window_chars": 1_024})
    events = [
        event | ({"text": "long" * 100} if number % 240 < 120 else {})
        for number, event in enumerate(itertools.islice(shop_events(5, 4, 10_000), 600))
    ]
    records = in_one_partition(seeded.with_faults(events, seed=5).messages)
    output = run_profile_pipeline(records, settings, tmp_path)
    expected = assert_equals_reference(records, output, settings)
    exceeded = Counter(
        detail for reason, detail in expected.rejected.values() if reason == "TOO_MANY"
    )
    assert exceeded["events"] > 100 and exceeded["characters"] > 100


def test_generated_streams_equal_reference(tmp_path: Path) -> None:
    """One job reads them one after the other, each in days of its own."""
    records = [
        record._replace(offset=offset)
        for offset, record in enumerate(filter(is_utf8, generated_records()))
    ]
    settings = load(job=JOB)
    output = run_profile_pipeline(records, settings, tmp_path)
    assert_equals_reference(records, output, settings)


def generated_records() -> list[Record]:
    found: list[Record] = []
    numbers = itertools.count()

    @hypothesis_settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def generate(data: st.DataObject) -> None:
        stream = strategies.behaviour_stream(partitions=1, close=False, series=next(numbers))
        found.extend(data.draw(stream))

    generate()
    return found
