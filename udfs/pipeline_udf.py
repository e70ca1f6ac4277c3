"""The Flink UDF of a pipeline: how it opens in a Python worker, and closes."""

import gc
from abc import abstractmethod
from contextlib import ExitStack
from typing import Any

from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from udfs.worker import WorkerParts
from udfs.worker_guard import worker_guard

# A batch makes tens of thousands of objects and drops them again without cycles. The default of
# 700 would scan its living objects a hundred times.
NEW_OBJECTS = 20_000


class PipelineUdf(ScalarFunction):
    """The function of a pipeline: reads definitions where the job is submitted, opens in workers.

    Its result is a list of output records for each row (liveprofile/wire/output_records.py).
    """

    def __init__(self, settings: Settings, parts: WorkerParts):
        """Raises RulesError for the file of rules."""
        self._settings, self._parts = settings, parts
        self._rules = read_rules(product_path(settings.rules))

    def open(self, function_context: FunctionContext) -> None:
        """Loads the model and opens the parts."""
        gc.disable()  # importing makes no garbage: a tenth of its time
        try:
            with ExitStack() as opening:
                opening.enter_context(worker_guard())
                self._open(opening, function_context.get_metric_group())
                self._opened = opening.pop_all()
        finally:
            gc.enable()
        collect_rarely()

    @abstractmethod
    def _open(self, opening: ExitStack, metric_group: Any) -> None:
        """Opens what `eval` needs; `opening` closes it."""

    def close(self) -> None:
        self._opened.close()


def pipeline_function(function: PipelineUdf):
    """The function as the job registers it."""
    records = DataTypes.ARRAY(DataTypes.STRING())
    return udf(function, result_type=records, func_type="pandas")


def collect_rarely() -> None:
    """Call it when everything is loaded: what exists now is never scanned again.

    Torch, pandas and Beam leave 300,000 permanent objects. Scanning them again and again took a
    quarter of a batch's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
