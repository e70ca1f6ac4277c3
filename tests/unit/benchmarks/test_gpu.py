"""The benchmark of a GPU, without one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.gpu import NOT_MEASURED, measure_gpu, time_batches
from benchmarks.load.rows import generated_rows
from benchmarks.load.workload import Workload
from tests.support.model_folders import SHIPPED

pytestmark = pytest.mark.slow

WORKLOAD = dataclasses.replace(Workload.of(4_000, 300), hours=1)


class Model:
    decay_days = 30.0

    def __init__(self, calls: list[Any]):
        self._calls = calls

    def score(self, *inputs: Any) -> None:
        self._calls.append((len(inputs), len(inputs[2])))


def test_clock_is_read_when_the_gpu_has_finished() -> None:
    calls: list[Any] = []
    rows = generated_rows(WORKLOAD).take(range(150))
    times = time_batches(Model(calls), rows, 2, lambda: calls.append("wait"))
    assert [*times] == [1, 64]
    assert calls[-4:] == ["wait", (6, 64), (6, 64), "wait"]
    assert calls.count("wait") == 2 * 2**2  # before and after each size and round


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    assert measure_gpu(SHIPPED, WORKLOAD, 1) == {"result": NOT_MEASURED}
