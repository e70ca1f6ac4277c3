"""Events of one time are a set: the order of their arrival and of their ids changes no output."""

from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from liveprofile.events.modalities import EMBEDDING_FIELD
from liveprofile.events.window import parse_training_window, parse_windows
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX, TYPE_LETTERS

TIME_MS = 1_700_000_000_000

CONTENTS = st.lists(
    st.fixed_dictionaries(
        {"event_type": st.sampled_from(["view", "purchase", "coupon", "search"])},
        optional={
            "item_id": st.sampled_from(["1000001", "1000002", "9"]),
            "category_id": st.sampled_from(["MILK", "BREAD"]),
            "amount": st.sampled_from([1, 2.5, "3"]),
            "device_id": st.sampled_from(["d1", "d2"]),
            "channel": st.sampled_from(["web", "app"]),
            "place": st.sampled_from([{"lat": 1, "lon": 2}, {"lat": 3, "lon": 4}]),
            "tags": st.sampled_from([["a"], ["b", "c"]]),
            "query": st.sampled_from(["milk", "bread"]),
            EMBEDDING_FIELD: st.sampled_from(
                [{"encoder": "e", "vector": [1, 0]}, {"encoder": "e", "vector": [0, 1]}]
            ),
        },
    ),
    min_size=1,
    max_size=8,
)


def window_text(contents: list[dict[str, Any]], ids: list[int], arrival: list[int]) -> str:
    """The events of one time: event i has id ids[i] and arrives as arrival[i]-th."""
    texts = []
    for content, number in zip(contents, ids, strict=True):
        payload = {"event_id": f"e{number}", "user_id": "u", "event_time": TIME_MS, **content}
        letter = TYPE_LETTERS[TYPE_INDEX[content["event_type"]]]
        text = orjson.dumps(payload).decode()
        texts.append(FIELD.join((str(TIME_MS), letter, "0", str(number), text)))
    return EVENT.join(texts[index] for index in arrival)


@st.composite
def same_events_twice(draw: st.DrawFn) -> tuple[str, str]:
    contents = draw(CONTENTS)
    numbers = list(range(len(contents)))
    first = window_text(contents, numbers, numbers)
    permutations = draw(st.permutations(numbers)), draw(st.permutations(numbers))
    return first, window_text(contents, *permutations)


def comparable(text: str) -> tuple[Any, ...]:
    parsed, kept, _ = parse_windows([text], AnyModality())
    [row] = parsed.rows
    vectors = {key: np.asarray(value).tolist() for key, value in row.modalities.vectors.items()}
    fields = row._replace(digests=b"", modalities=None)
    counts = parsed.counts.tolist(), parsed.amount.tolist(), parsed.return_amount.tolist()
    tokens = [column_of(each) for each in parsed.tokens]
    return fields, vectors, tokens, counts, parse_training_window(text).tokens, kept


def column_of(column: Any) -> list[Any]:
    return column if isinstance(column, list) else column.tolist()


class AnyModality:
    """Contains every modality."""

    def __contains__(self, _: object) -> bool:
        return True


@settings(max_examples=100, deadline=None)
@given(same_events_twice())
def test_parsed_window_is_the_same_for_any_order_of_arrival_and_ids(texts: tuple[str, str]):
    first, second = texts
    assert comparable(first) == comparable(second)
