"""The job for the benchmarks: jobs/profile_job.py with a journal of each worker's batches."""

import argparse
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, StreamTableEnvironment

from benchmarks.support.journal import OpenJournalMetrics
from jobs import profile_job
from liveprofile.flink.jobs import PIPELINES, only_job
from liveprofile.settings import load
from udfs.profile.udf import PARTS, profile_udf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--journal", required=True, help="folder for the workers' journals")
    parser.add_argument("--pipeline", choices=PIPELINES)
    options = parser.parse_args()
    job = only_job(load(options.config), options.pipeline)
    settings = job.settings
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    parts = PARTS._replace(open_metrics=OpenJournalMetrics(options.journal))
    profile_tables = profile_job.kafka_profile_tables(settings)._replace(
        update_profile=profile_udf(settings, parts)
    )
    profile_job.build(
        t_env,
        settings,
        profile_tables if job.has("profile") else None,
        profile_job.kafka_scoring_tables(settings) if job.has("scoring") else None,
    ).execute()


if __name__ == "__main__":
    sys.exit(main())
