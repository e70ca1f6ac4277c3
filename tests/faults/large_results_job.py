"""A job whose Python function returns more than a gRPC channel takes without its receiver.

It needs only Flink. Each call leaves the files `called` and `returned` in the folder --calls.
Flink pickles the class with the job, because the Python workers have no tests.
"""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
from pyflink.table import DataTypes, EnvironmentSettings, StreamTableEnvironment
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from udfs.worker_guard import worker_guard

CALL_S = 2.0
RESULT_CHARS = 8_000_000  # a channel takes 1 MiB before its receiver reads


class LargeResultUdf(ScalarFunction):
    """For `notice_s` and `pause_s` see udfs.worker_guard."""

    def __init__(self, folder: str, notice_s: float, pause_s: float):
        self._folder, self._notice_s, self._pause_s = folder, notice_s, pause_s

    def open(self, function_context: FunctionContext) -> None:
        self._opened = ExitStack()
        self._opened.enter_context(worker_guard(self._notice_s, [self._pause_s]))

    def close(self) -> None:
        self._opened.close()

    def eval(self, number: pd.Series) -> pd.Series:
        (Path(self._folder) / "called").touch()
        time.sleep(CALL_S)
        (Path(self._folder) / "returned").touch()
        return pd.Series(["x" * RESULT_CHARS] * len(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", required=True)
    parser.add_argument("--notice-s", type=float, required=True)
    parser.add_argument("--pause-s", type=float, required=True)
    options = parser.parse_args()
    settings = EnvironmentSettings.in_streaming_mode()
    t_env = StreamTableEnvironment.create(environment_settings=settings)
    for option in ("bundle.size", "bundle.time", "arrow.batch.size"):
        t_env.get_config().set(f"python.fn-execution.{option}", "1")
    t_env.get_config().set("parallelism.default", "1")
    for table, connector in (
        ("numbers (number BIGINT)", "'connector' = 'datagen', 'rows-per-second' = '1'"),
        ("results (text STRING)", "'connector' = 'blackhole'"),
    ):
        t_env.execute_sql(f"CREATE TEMPORARY TABLE {table} WITH ({connector})")
    function = LargeResultUdf(options.calls, options.notice_s, options.pause_s)
    large_text = udf(function, result_type=DataTypes.STRING(), func_type="pandas")
    t_env.create_temporary_system_function("large_text", large_text)
    t_env.execute_sql("INSERT INTO results SELECT large_text(number) FROM numbers")


if __name__ == "__main__":
    main()
