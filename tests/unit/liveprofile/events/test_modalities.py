"""Modality vectors, places and texts of windows, against the reference in plain Python."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.events.modalities import (
    MAX_DIMENSIONS,
    PLACE,
    TEXT,
    TEXT_CHARS,
    Modality,
    add_text_vectors,
)
from liveprofile.events.window import parse_training_window, parse_windows
from liveprofile.settings import load
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX, TYPE_LETTERS
from tests.reference import history
from tests.reference.validation import ValidEvent, validate

TIME_MS = 1_700_000_000_000
CLIP2, CLIP3, VOICE = Modality("clip", 2), Modality("clip", 3), Modality("voice.v2", 1)
GOOD = {"encoder": "clip", "vector": [3.0, -4]}


def events(given: list[Any], **more: Any) -> list[dict[str, Any]]:
    """Returns one event per embedding, one millisecond apart."""
    return [
        {
            "event_id": f"e{number}",
            "user_id": "u",
            "event_type": "view",
            "event_time": TIME_MS + number,
            "media_embedding": one,
            **more,
        }
        for number, one in enumerate(given)
    ]


def letter(event: dict[str, Any]) -> str:
    return TYPE_LETTERS[TYPE_INDEX[event["event_type"]]]


def encoded(some: list[dict[str, Any]]) -> str:
    """Encodes a window as the SQL does, newest event first."""
    return EVENT.join(
        FIELD.join((str(event["event_time"]), letter(event), "0", str(number), json.dumps(event)))
        for number, event in reversed(list(enumerate(some)))
    )


def read(some: list[dict[str, Any]], *known: Modality) -> tuple[dict[Modality, np.ndarray], int]:
    window = parse_windows([encoded(some)], frozenset(known))[0].rows[0]
    return dict(window.modalities.vectors), window.modalities.ignored


def assert_same(found: Any, expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, vector in found.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected[name], 1e-6, 1e-7)


@pytest.mark.parametrize(
    "broken",
    [
        "clip",
        7,
        [],
        {},
        {"encoder": "clip"},
        {"vector": [1, 2]},
        GOOD | {"encoder": None},
        GOOD | {"encoder": "Clip"},
        GOOD | {"encoder": "x" * 65},
        GOOD | {"encoder": ""},
        GOOD | {"encoder": "clip\n"},
        GOOD | {"vector": []},
        GOOD | {"vector": "1, 2"},
        GOOD | {"vector": [1, True]},
        GOOD | {"vector": ["1", 2]},
        GOOD | {"vector": [1, None]},
        GOOD | {"vector": [0, 0.0]},
        GOOD | {"vector": [1e-200, 0]},
        GOOD | {"vector": [2e9, 1]},
        GOOD | {"vector": [10**400, 1]},
        GOOD | {"vector": [[1], [2]]},
        GOOD | {"vector": [1] * (MAX_DIMENSIONS + 1)},
    ],
)
def test_invalid_embedding_is_ignored_and_counted_and_event_is_kept(broken: Any) -> None:
    some = events([GOOD, broken])
    found, ignored = read(some, CLIP2, Modality("clip", 1_025))
    assert_same(found, {CLIP2: [0.6, -0.8]})
    assert ignored == 1
    assert_same(parse_training_window(encoded(some)).modalities.vectors, {CLIP2: [0.6, -0.8]})
    event = validate(json.dumps(some[1]).encode(), TIME_MS, load().limits)
    assert isinstance(event, ValidEvent) and event.media is None


def test_vector_of_unknown_modality_is_ignored_and_counted() -> None:
    longer = {"encoder": "clip", "vector": [1.0, 2.0, 2.0]}
    found, ignored = read(events([None, GOOD, longer, {"encoder": "other", "vector": [1]}]), CLIP2)
    assert found.keys() == {CLIP2} and ignored == 2
    assert read(events([None])) == ({}, 0)
    # Training rows keep the vectors of every encoder and length.
    trained = parse_training_window(encoded(events([GOOD, longer]))).modalities.vectors
    assert_same(trained, {CLIP2: [0.6, -0.8], CLIP3: [1 / 3, 2 / 3, 2 / 3]})


def test_place_is_the_last_valid_place() -> None:
    some = events([None] * 4)
    places = [{"lat": 1, "lon": 2}, {"lat": 48.5, "lon": "11.25"}, None, {"lat": 3}]
    for event, place in zip(some, places, strict=True):
        event["place"] = place
    found, ignored = read(some, PLACE)
    assert_same(found, {PLACE: [48.5, 11.25]})
    assert ignored == 0 and read(some)[0] == {}
    assert_same(parse_training_window(encoded(some)).modalities.vectors, {PLACE: [48.5, 11.25]})


def test_newest_text_is_returned_if_texts_are_read() -> None:
    some = events([None] * 5)
    some[0]["text"] = "older"
    some[1] |= {"text": " lovely shoes ", "query": "not this"}
    some[2] |= {"text": None, "query": 7}
    some[3] |= {"text": " ", "query": ""}
    assert parse_training_window(encoded(some)).text == "lovely shoes"
    windows = [parse_windows([encoded(some)], known)[0].rows[0] for known in ({TEXT}, {CLIP2})]
    assert [window.text for window in windows] == ["lovely shoes", ""]
    some[4] |= {"text": [], "query": "x" * 2_000}
    assert parse_training_window(encoded(some)).text == "x" * TEXT_CHARS
    assert parse_training_window(encoded(events([None]))).text == ""


def test_windows_without_text_are_not_encoded() -> None:
    asked = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.arange(2 * len(texts), dtype=np.float32).reshape(-1, 2)

    clip = {CLIP2: np.ones(2, np.float32)}
    none, both, text = add_text_vectors([clip, clip, {}], ["", "a", "b"], encode)
    assert none is clip and clip.keys() == {CLIP2}
    assert both.keys() == {CLIP2, TEXT} and text[TEXT].tolist() == [2, 3]
    assert add_text_vectors([clip], [""], encode) == [clip]
    assert asked == [["a", "b"]]


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {
                    "encoder": st.sampled_from(["clip", "voice.v2", "Odd"]),
                    "vector": st.lists(
                        st.one_of(st.integers(-3, 3), st.floats(-2e9, 2e9)), max_size=3
                    ),
                }
            ),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_random_window_matches_the_reference(given: list[Any]) -> None:
    some = events(given, place={"lat": 10.5, "lon": -20})
    limits = load().limits
    checked = [validate(json.dumps(event).encode(), TIME_MS, limits) for event in some]
    expected = history.modality_inputs(checked)
    every = parse_training_window(encoded(some)).modalities.vectors
    assert_same({tuple(modality): vector for modality, vector in every.items()}, expected)
    known = (CLIP2, VOICE, PLACE)
    found, ignored = read(some, *known)
    assert_same(found, {modality: every[modality] for modality in known if modality in every})
    assert ignored >= sum(
        one is not None and event.media is None for one, event in zip(given, checked, strict=True)
    ) - sum(one is not None for one in given[:-3])
