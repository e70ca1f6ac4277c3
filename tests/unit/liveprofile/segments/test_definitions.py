"""Segment definitions: validation of files, records and sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from liveprofile.segments.definitions import (
    SegmentsError,
    read_segment,
    read_segments,
    segment_set,
)
from tests.support.rows.segment_examples import SEGMENTS_TOML, SHIPPED_SEGMENTS, segment, segments


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("purchases >=", "purchase >=", 5,
         "segment buyer: when, column 1: unknown name purchase; purchases?"),
        ("purchases >= 3", 'interest(3) > 0', 5,
         'segment buyer: when, column 1: interest takes one quoted text, such as interest("X")'),
        ("purchases >= 3", "interest('A')", 5,
         "segment buyer: when, column 1: is a number, not a condition"),
        ("purchases >= 3", "intrest('A') > 0", 5,
         "segment buyer: when, column 1: only abs, min, max, interest, affinity, segment, attribute"
         " can be"),
        ("purchases >= 3", "segment('buyers')", 5,
         "segment buyer: when: unknown segment buyers; buyer?"),
        ("purchases >= 3", "not segment('buyer')", 5,
         "segment buyer: when: reads itself: buyer -> buyer"),
        ("purchases >= 3", "segment('buyer') > 1", 5,
         "segment buyer: when, column 1: `segment('buyer')` is a condition, expected a number"),
        ('"Bought three times"', '""', 7, "segment buyer: description: String should have"),
        ('owner = "marketing"', "", 3, "segment buyer: owner: Field required"),
        ('owner = "marketing"', 'owner = "m"\nstate = "OFF"', 7, "segment buyer: state: Input"),
        ("[[segments]]", "[[segment]]", None, "segments: must be tables [[segments]]"),
        ('version = "1"', 'version = "1"\nsweep = 3', None, "sweep: Extra inputs"),
    ],
)  # fmt: skip
def test_invalid_file_is_rejected_with_line_and_reason(
    tmp_path: Path, old: str, new: str, line: int | None, reason: str
) -> None:
    file = tmp_path / "segments.toml"
    file.write_text(SEGMENTS_TOML.replace(old, new, 1))
    with pytest.raises(SegmentsError) as error:
        read_segments(file)
    where = f"segments file {file}:{line}: " if line else f"segments file {file}: "
    assert str(error.value).startswith(where + reason)


def test_segments_that_read_each_other_in_a_circle_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "segments.toml"
    one, other = SEGMENTS_TOML, SEGMENTS_TOML.partition("\n")[2].replace('"buyer"', '"other"')
    file.write_text(
        one.replace("purchases >= 3", "segment('other')")
        + other.replace("purchases >= 3", "segment('buyer')")
    )
    with pytest.raises(SegmentsError, match="reads itself") as error:
        read_segments(file)
    assert [problem.line for problem in error.value.problems] == [5, 11]


def test_evaluated_segments_come_after_those_they_read() -> None:
    found = segments(a='segment("b") and segment("c")', b='segment("c")', c="events > 1")
    assert [each.id for each in found.evaluated] == ["c", "b", "a"]


def test_set_leaves_out_segments_with_invalid_references() -> None:
    found, faults = segment_set(
        [
            segment("good", "events > 1"),
            segment("paused", "events > 2", state="PAUSED"),
            segment("reads_paused", "segment('paused')"),
            segment("reads_broken", "segment('reads_paused')"),
        ]
    )
    assert [each.id for each in found.segments] == ["good", "paused"]
    assert [each.id for each in found.evaluated] == ["good"]
    assert [fault.name for fault in faults] == ["reads_paused", "reads_broken"]


def test_version_of_a_set_is_a_digest_of_its_definitions() -> None:
    one = segments(a="events > 1", b="events > 2")
    assert one == segments(b="events > 2", a="events > 1")
    assert one.version != segments(a="events > 1", b="events > 3").version


def test_record_is_read_without_the_fields_of_its_application() -> None:
    shipped = SHIPPED_SEGMENTS.segments[0]
    value = shipped.model_dump_json().replace("{", '{"applied_by":"anna","applied_at":"now",', 1)
    assert read_segment(value.encode(), "record") == shipped
    with pytest.raises(SegmentsError, match=r"record: segment \?: id: Field required"):
        read_segment(b"{}", "record")
