"""The profile job for the benchmarks: with a journal, complete or with parts left out.

both-pipelines   the complete job (jobs/profile_job.py)
whole            the complete profile pipeline, without the scoring pipeline
unstored         like whole, without writes to Cassandra (job.store = "none")
bare             like unstored, without the model: the Python worker receives each row and drops it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from pyflink.table import (
    DataTypes,
    EnvironmentSettings,
    StreamTableEnvironment,
)
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from benchmarks.support.journal import Journal, OpenJournalMetrics
from jobs import profile_job
from jobs.sql import tables
from liveprofile.settings import load
from udfs.profile.udf import PARTS, profile_udf

VARIANTS = ("both-pipelines", "whole", "unstored", "bare")


class NoOpFunction(ScalarFunction):
    """Takes the place of the profile UDF, writes the journal and drops the rows."""

    def __init__(self, journal: str):
        self._folder = journal

    def open(self, function_context: FunctionContext) -> None:
        self._journal = Journal(self._folder)

    def close(self) -> None:
        self._journal.close()

    def eval(self, user_id: pd.Series, *_columns: pd.Series) -> pd.Series:
        self._journal.write(len(user_id), {})
        return pd.Series([[] for _ in range(len(user_id))], dtype=object)


def no_op_udf(journal: str):
    return udf(
        NoOpFunction(journal),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--journal", required=True, help="folder for the workers' journals")
    options = parser.parse_args()
    settings = load(options.config)
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    update_profile = (
        no_op_udf(options.journal)
        if options.variant == "bare"
        else profile_udf(settings, PARTS._replace(open_metrics=OpenJournalMetrics(options.journal)))
    )
    profile_job.build(
        t_env,
        settings,
        source=tables.kafka_source("source", settings),
        sink=tables.kafka_sink("sink", settings),
        update_profile=update_profile,
        scoring_tables=(
            profile_job.kafka_scoring_tables(settings)
            if options.variant == "both-pipelines"
            else None
        ),
    ).execute()


if __name__ == "__main__":
    sys.exit(main())
