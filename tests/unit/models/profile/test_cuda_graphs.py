"""Padding, cutting and choice of a graph, with captures that need no GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.profile.cuda_graphs import GPU_IN_USE, GraphedRows
from tests.unit.models.profile.recording_capture import RecordingCapture
from tests.unit.models.profile.shipped import assert_same, profile_model

Function = Callable[[], tuple[Tensor, ...]]


class Doubling:
    """A function of rows that records how many it gets."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, values: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(values))
        return 2 * values, numbers.sum(1)


def rows(first: int, count: int) -> tuple[Tensor, Tensor]:
    values = torch.arange(first, first + count)
    return values, values[:, None].expand(-1, 3).float()


def test_smallest_graph_that_fits_is_replayed_and_its_outputs_are_cut() -> None:
    function, capture = Doubling(), RecordingCapture()
    graphed = GraphedRows(function, [2, 5], capture)
    graphed.prepare(*rows(0, 1))
    assert function.sizes == [2, 5] and capture.captured == 2
    for count, size in ((1, 2), (2, 2), (3, 5), (5, 5)):
        doubled, sums = graphed(*rows(10, count))
        assert doubled.tolist() == [2 * value for value in range(10, 10 + count)]
        assert sums.tolist() == [3.0 * value for value in range(10, 10 + count)]
        assert function.sizes[-1] == size
    assert capture.replayed == 4


def test_results_do_not_change_with_the_next_call() -> None:
    graphed = GraphedRows(Doubling(), [4], RecordingCapture())
    graphed.prepare(*rows(0, 1))
    first, _ = graphed(*rows(1, 4))
    second, _ = graphed(*rows(7, 2))
    assert first.tolist() == [2, 4, 6, 8] and second.tolist() == [14, 16]


def test_other_shapes_and_types_run_without_a_graph() -> None:
    function, capture = Doubling(), RecordingCapture()
    graphed = GraphedRows(function, [4], capture)
    values, numbers = rows(0, 3)
    graphed(values, numbers)
    graphed.prepare(values, numbers)
    for inputs in ((*rows(0, 5),), (values, numbers[:, :2]), (values, numbers.double())):
        doubled, sums = graphed(*inputs)
        assert doubled.tolist() == (2 * inputs[0]).tolist()
        assert sums.tolist() == inputs[1].sum(1).tolist()
    assert capture.replayed == 0 and function.sizes == [3, 4, 5, 3, 3]


def test_failed_capture_is_logged_once_and_everything_runs_without_graphs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    capture = RecordingCapture()

    def fail_second(function: Function) -> Any:
        if capture.captured == 1:
            capture.captured += 1
            raise torch.OutOfMemoryError("CUDA out of memory\nAdvice")
        return capture(function)

    graphed = GraphedRows(Doubling(), [2, 4], fail_second)
    with caplog.at_level(logging.WARNING):
        graphed.prepare(*rows(0, 1))
        graphed.prepare(*rows(0, 1))
    assert capture.captured == 2 and not graphed.captured
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs for a part of each pass: CUDA out of memory"
    ]
    assert graphed(*rows(3, 2))[0].tolist() == [6, 8]
    assert capture.replayed == 0 and not GPU_IN_USE.locked()


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [512, 100])
def test_passes_replay_two_graphs_and_give_the_same_scores(
    shipped: tuple, shipped_inputs: tuple, batch_rows: int
) -> None:
    capture = RecordingCapture()
    graphed = profile_model(shipped, shipped[0], batch_rows, capture)
    graphed.warm_up()
    # Three numbers of rows, each with three lengths and once for the heads.
    assert capture.captured == 12
    capture.replayed = 0
    scores = graphed.score(*shipped_inputs)
    assert capture.replayed == 2 * len(scores.batches)
    assert_same(scores, profile_model(shipped, shipped[0]).score(*shipped_inputs), 1e-4)
    assert capture.captured == 12
    # Copies for other deployments share the graphs.
    capture.replayed = 0
    graphed.with_revision(7).score(*shipped_inputs)
    assert capture.replayed == 2 * len(scores.batches)


@pytest.mark.slow
def test_network_that_cannot_be_captured_scores_without_graphs(
    shipped: tuple, shipped_inputs: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(function: Function) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = profile_model(shipped, shipped[0], capture=fail)
    model.warm_up()
    assert len(caplog.records) == 1 and not model.has_graphs
    expected = profile_model(shipped, shipped[0]).score(*shipped_inputs)
    assert_same(model.score(*shipped_inputs), expected, 1e-4)


@pytest.mark.slow
def test_no_pass_runs_while_another_model_is_captured(
    shipped: tuple, shipped_inputs: tuple
) -> None:
    serving = profile_model(shipped, shipped[0], capture=RecordingCapture())
    capturing, scored = threading.Event(), threading.Event()

    def capture_slowly(function: Function) -> Any:
        capturing.set()
        assert not scored.wait(0.5)
        raise RuntimeError("enough")

    def score() -> None:
        capturing.wait()
        serving.score(*shipped_inputs)
        scored.set()

    thread = threading.Thread(target=score)
    thread.start()
    profile_model(shipped, shipped[0], capture=capture_slowly).warm_up()
    thread.join()
    assert scored.is_set()
