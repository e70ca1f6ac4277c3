"""Replays the parts of a forward pass that have fixed shapes as CUDA graphs.

A pass of few rows takes a GPU less time than its launches take the CPU. A graph launches all of its
kernels at once, but its tensors have fixed addresses and sizes. So rows are padded to one of a few
sizes, copied into the graph's inputs, and the outputs are copied out and cut.

CUDA Graphs in PyTorch: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

Shape suffixes as in models/profile/forward.py; L the length of a bucket.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.profile.device import first_line
from models.profile.encoding import FIELDS, Groups
from models.profile.network import BehaviourTransformer
from models.profile.user_features import FEATURE_NAMES

WARM_UP_RUNS = 3  # of a function before its capture: libraries allocate in the first ones
ROW_SIZES = (8, 64)  # and the rows of a whole pass

RowFunction = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[], None]
# Runs a function without arguments once, and returns what repeats it and its outputs, which each
# repetition overwrites.
Capture = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Replay, tuple[Tensor, ...]]]

# While a graph is captured, no other thread may use the GPU: a new model is captured while the old
# one serves, and the memory allocator, which both share, cannot free anything meanwhile.
GPU_IN_USE = threading.Lock()

log = logging.getLogger(__name__)


class CudaCapture:
    """Captures with torch.cuda.graph. Its graphs share memory, so they must not run concurrently.

    That is safe in any order, because no graph reads what another has left.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, function: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Replay, tuple[Tensor, ...]]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                function()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # The mode is for what another thread does without GPU_IN_USE, such as encoding texts.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            outputs = function()
        return graph.replay, outputs


class _Graph(NamedTuple):
    replay: Replay
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class GraphedRows:
    """A function of rows, the first dimension of its inputs and outputs, at a few sizes.

    function: the outputs of a row depend on that row's inputs only. sizes: ascending numbers of
    rows. capture: e.g. CudaCapture. What was not captured, or cannot be, runs as it is.
    """

    def __init__(self, function: RowFunction, sizes: Sequence[int], capture: Capture):
        self._function, self._sizes, self._capture = function, tuple(sizes), capture
        self._graphs: dict[tuple, _Graph] = {}
        self._can_capture = True

    @property
    def captured(self) -> bool:
        return bool(self._graphs)

    def prepare(self, *like: Tensor) -> None:
        """Captures the function at each size. like: inputs of any number of rows."""
        for size in self._sizes:
            if not self._can_capture:
                return
            try:
                inputs = tuple(each.new_zeros(size, *each.shape[1:]) for each in like)
                with GPU_IN_USE:
                    replay, outputs = self._capture(lambda inputs=inputs: self._function(*inputs))
            except RuntimeError as error:  # of CUDA, of its memory too
                self._can_capture = False
                self._graphs.clear()
                log.warning("no CUDA graphs for a part of each pass: %s", first_line(error))
                return
            self._graphs[_key(size, inputs)] = _Graph(replay, inputs, outputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        rows = len(inputs[0])
        size = next((size for size in self._sizes if size >= rows), 0)
        graph = self._graphs.get(_key(size, inputs))
        if graph is None:
            return self._function(*inputs)
        # The other rows keep the values of an earlier call.
        for static, values in zip(graph.inputs, inputs, strict=True):
            static[:rows].copy_(values)
        graph.replay()
        return tuple(output[:rows].clone() for output in graph.outputs)


def _key(size: int, inputs: Sequence[Tensor]) -> tuple:
    return size, *((each.shape[1:], each.dtype) for each in inputs)


class GraphedNetwork:
    """Graphs of the trunk, at fixed lengths and numbers of rows, and of the heads of rows.

    row_heads: a function of states, fused states, repeat counts and user features, all by row.
    lengths: ascending, the last is that of the longest sequence. most_rows: of a pass.
    """

    def __init__(
        self,
        model: BehaviourTransformer,
        row_heads: RowFunction,
        lengths: Sequence[int],
        most_rows: int,
        capture: Capture,
    ):
        self._model, self._lengths = model, tuple(lengths)
        sizes = [*(size for size in ROW_SIZES if size < most_rows), most_rows]
        self._states = GraphedRows(self._all_states, sizes, capture)
        # A row has a state before and a state after its window.
        self.row_outputs = GraphedRows(row_heads, [2 * size for size in sizes], capture)

    @property
    def captured(self) -> bool:
        return self._states.captured and self.row_outputs.captured

    def prepare(self) -> None:
        """Captures all graphs. The caller is in inference mode, as later calls are."""
        table = self._model.table
        for length in self._lengths:
            self._states.prepare(table.new_zeros(1, length, len(FIELDS), dtype=torch.int32))
        if not self._states.captured:
            return
        states = table.new_zeros(1, table.shape[1])
        numbers = [
            table.new_zeros(1, width, dtype=torch.float32)
            for width in (self._model.shape.category_rows, len(FEATURE_NAMES))
        ]
        self.row_outputs.prepare(states, states, *numbers)

    def trunk(self, embedding_rows_P7: Tensor, groups: Groups, flat_position_N: Tensor) -> Tensor:
        """As BehaviourTransformer.trunk. One group needs the fewest launches."""
        parts = []
        for start, rows, length in groups:
            flat = embedding_rows_P7[start : start + rows * length]
            padding = next(each for each in self._lengths if each >= length) - length
            padded = F.pad(flat.view(rows, length, len(FIELDS)), (0, 0, 0, padding))
            [h_BLD] = self._states(padded)
            parts.append(h_BLD[:, :length].flatten(0, 1))
        h_PD = parts[0] if len(parts) == 1 else torch.cat(parts)
        return h_PD.index_select(0, flat_position_N)

    def _all_states(self, embedding_rows_BL7: Tensor) -> tuple[Tensor]:
        rows, length, _ = embedding_rows_BL7.shape
        h_PD = self._model.trunk(embedding_rows_BL7.flatten(0, 1), [(0, rows, length)])
        return (h_PD.view(rows, length, -1),)
