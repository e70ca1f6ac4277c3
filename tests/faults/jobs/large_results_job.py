"""A job whose Python function returns more than a gRPC channel takes without its receiver.

    flink run -py tests/faults/jobs/large_results_job.py ... --called FOLDER

It has no state and needs only Flink. Each call creates a file in FOLDER, then takes CALL_S.
Flink pickles the class with the job, because the Python workers have no tests.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from pyflink.table import DataTypes, EnvironmentSettings, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

CALL_S = 2.0
RESULT_CHARS = 8_000_000  # a channel takes 1 MiB before its receiver reads


class LargeResultUdf(ScalarFunction):
    def __init__(self, folder: str):
        self._folder = folder

    def eval(self, number: pd.Series) -> pd.Series:
        (Path(self._folder) / "called").touch()
        time.sleep(CALL_S)
        (Path(self._folder) / "returned").touch()
        return pd.Series(["x" * RESULT_CHARS] * len(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--called", required=True)
    options = parser.parse_args()
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    for option in ("size", "time"):
        t_env.get_config().set(f"python.fn-execution.bundle.{option}", "1")
    t_env.get_config().set("python.fn-execution.arrow.batch.size", "1")
    t_env.execute_sql(
        "CREATE TEMPORARY TABLE numbers (number BIGINT)"
        " WITH ('connector' = 'datagen', 'rows-per-second' = '1')"
    )
    t_env.execute_sql(
        "CREATE TEMPORARY TABLE results (text STRING) WITH ('connector' = 'blackhole')"
    )
    t_env.create_temporary_system_function(
        "large_text",
        udf(LargeResultUdf(options.called), result_type=DataTypes.STRING(), func_type="pandas"),
    )
    t_env.execute_sql("INSERT INTO results SELECT large_text(number) FROM numbers")


if __name__ == "__main__":
    main()
