"""The benchmark of a GPU, without one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.load.workload import Workload
from benchmarks.models.gpu_passes import NOT_MEASURED, gpu_passes, time_variants
from benchmarks.models.model_speed import generated_rows
from tests.support.model_folders import SHIPPED

pytestmark = pytest.mark.slow

WORKLOAD = dataclasses.replace(Workload.of(4_000, 300), hours=1)


class Model:
    decay_days = 30.0

    def __init__(self, name: str, events: list[tuple]):
        self._name, self._events = name, events

    def score(self, *inputs: Any) -> None:
        self._events.append((self._name, len(inputs), len(inputs[2])))


def test_clock_is_read_when_the_gpu_has_finished_and_variants_alternate() -> None:
    events: list[Any] = []
    models = {name: Model(name, events) for name in ("eager", "graphs")}
    rows = generated_rows(WORKLOAD).take(range(150))
    times = time_variants(models, rows, 2, lambda: events.append("wait"))
    assert {name: {part: [*sizes] for part, sizes in of.items()} for name, of in times.items()} == {
        name: {"passes": [1, 64], "whole": [1, 64]} for name in models
    }
    runs = [
        list(dict.fromkeys(run)) for run in _split(events, "wait") if run
    ]  # the calls of one measurement are equal
    once = [[(name, inputs, 1)] for name in models for inputs in (5, 6)]
    assert runs[:8] == [*once, *once]
    # Before and after each of two sizes, rounds, models and parts.
    assert events.count("wait") == 2 * 2**4


def _split(events: list[Any], separator: str) -> list[list[Any]]:
    parts: list[list[Any]] = [[]]
    for event in events:
        if event == separator:
            parts.append([])
        else:
            parts[-1].append(event)
    return parts


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    assert gpu_passes(SHIPPED, WORKLOAD, 1) == {"result": NOT_MEASURED}
