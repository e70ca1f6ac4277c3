"""MemoryProfileSink and NullSink."""

from __future__ import annotations

from liveprofile.rules.flags import FlagHistory, FlagQuery
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.rows.profile_rows import profile_row, write_and_flush
from udfs.profile.sink import NullSink


def test_later_window_and_newer_model_revision_win():
    sink = MemoryProfileSink()
    second = profile_row(window=1, revision=3, churn=0.6)
    write_and_flush(sink, second)
    write_and_flush(
        sink,
        profile_row(window=0, revision=3, churn=0.3),
        profile_row(window=1, revision=2, churn=0.2),
    )
    assert sink.profiles["u"].churn == 0.6
    assert {key: row.churn for key, row in sink.deltas.items()} == {
        ("u", second.window_end_ms): 0.6,
        ("u", second.window_start_ms): 0.3,
    }


def test_null_sink_has_no_flag_history():
    sink = NullSink()
    row = profile_row(active_rules=["rule"])
    write_and_flush(sink, row)
    history = sink.flag_history([FlagQuery("u", "rule", row.window_end_ms + 1)])
    assert history == [FlagHistory()]
