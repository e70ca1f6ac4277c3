"""Out of memory halves a pass, and changes no score. Without a GPU: see short_of_memory.py."""

from __future__ import annotations

import logging
import weakref
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from models.profile.device import DeviceMemoryError
from models.profile.passes import Passes
from tests.unit.models.profile.shipped import assert_same, profile_model
from tests.unit.models.profile.short_of_memory import ShortOfMemory


class Device:
    """Runs slices of at most `fits` rows."""

    def __init__(self, fits: int):
        self.fits, self.tried = fits, list[int]()

    def __call__(self, part: slice) -> list[int]:
        size = part.stop - part.start
        self.tried.append(size)
        if size > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))


def test_each_row_is_passed_once_and_the_smaller_size_stays() -> None:
    passes, device = Passes(16), Device(fits=5)
    assert list(chain(*passes.run(10, device))) == list(range(10))
    assert device.tried == [10, 5, 5]
    assert list(chain(*passes.run(7, device))) == list(range(7))
    assert device.tried[3:] == [5, 2] and passes.rows == 5


def test_rows_before_the_error_are_not_repeated() -> None:
    passes, tried = Passes(4), list[tuple[int, int]]()

    def full_once(part: slice) -> None:
        tried.append((part.start, part.stop))
        if tried == [(0, 4), (4, 8)]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    passes.run(9, full_once)
    assert tried == [(0, 4), (4, 8), (4, 6), (6, 8), (8, 9)]


def test_size_doubles_after_enough_passes_and_a_size_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    passes, device = Passes(8, growth_passes=3), Device(fits=3)
    with caplog.at_level(logging.WARNING):
        passes.run(8, device)
        assert device.tried == [8, 4, 2, 2, 2, 2]  # the size doubled after the third
        device.tried.clear()
        passes.run(4, device)
        assert device.tried == [4, 2, 2]
    assert [record.args for record in caplog.records] == [(8, 4), (4, 2)]
    device.fits = 100
    for _ in range(12):
        passes.run(8, device)
    assert passes.rows == 8


def test_a_smaller_limit_of_one_function_does_not_change_the_size() -> None:
    passes, device = Passes(8), Device(fits=8)
    passes.run(8, device, most_rows=3)
    passes.run(8, device)
    assert device.tried == [3, 3, 2, 8]


def test_a_single_row_without_memory_is_an_error() -> None:
    with pytest.raises(DeviceMemoryError, match=r"single row.*CUDA out of memory$") as caught:
        Passes(4).run(4, Device(fits=0))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_not_repeated() -> None:
    def fail(part: slice) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    passes = Passes(4)
    with pytest.raises(RuntimeError, match="device-side"):
        passes.run(4, fail)
    assert passes.rows == 4


def test_the_cache_is_freed_when_the_failed_pass_holds_nothing() -> None:
    held: list[weakref.ref] = []
    alive: list[Any] = []

    def fail_first(part: slice) -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    Passes(4, free_cache=lambda: alive.append(held[0]())).run(4, fail_first)
    assert alive == [None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "fits"),
    [("trunk", 1_000), ("values", 100), ("item_logits", 20), ("value_curves", 70)],
)
def test_scores_of_halved_passes_equal_those_of_whole_passes(
    shipped: tuple, shipped_inputs: tuple, method: str, fits: int
) -> None:
    whole = profile_model(shipped, shipped[0]).score(*shipped_inputs)
    network = ShortOfMemory(shipped[0], **{method: fits})
    model = profile_model(shipped, network)
    halved = model.score(*shipped_inputs)
    rows = len(whole.surprise)
    assert rows > 150 and model.rows_per_pass < 128
    assert max(network.sizes[method]) > fits >= network.sizes[method][-1]
    assert sum(batch.rows for batch in halved.batches) == rows
    assert_same(halved, whole, 1e-4)
    # The next call begins with the smaller size.
    network.sizes.clear()
    assert_same(model.score(*shipped_inputs), whole, 1e-4)
    assert max(network.sizes[method]) <= fits


@pytest.mark.slow
def test_scores_have_the_same_bits_where_the_padding_is_the_same(
    shipped: tuple, shipped_inputs: tuple
) -> None:
    *_, memories, _ = shipped_inputs
    rows = len(memories.sizes)
    network = ShortOfMemory(shipped[0], values=2 * (rows // 4))
    halved = profile_model(shipped, network, batch_rows=rows).score(*shipped_inputs)
    assert network.sizes["values"][:3] == [2 * rows, 2 * (rows // 2), 2 * (rows // 4)]
    quarters = profile_model(shipped, shipped[0], batch_rows=rows // 4).score(*shipped_inputs)
    for name, value in halved._asdict().items():
        if name not in ("batches", "value_curves"):
            np.testing.assert_array_equal(value, getattr(quarters, name), name)


@pytest.mark.slow
def test_warm_up_halves_too_and_fails_if_no_row_fits(shipped: tuple) -> None:
    model = profile_model(shipped, ShortOfMemory(shipped[0], values=4))
    model.warm_up()
    assert model.rows_per_pass == 2
    with pytest.raises(DeviceMemoryError, match="single row"):
        profile_model(shipped, ShortOfMemory(shipped[0], values=1)).warm_up()


@pytest.mark.slow
def test_model_that_does_not_fit_is_named(shipped: tuple) -> None:
    class TooLarge(ShortOfMemory):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nAdvice")

    with pytest.raises(DeviceMemoryError, match=rf"model {shipped[3].version} .* 2 GiB\.$"):
        profile_model(shipped, TooLarge(shipped[0]))
