"""The Python UDFs of the job: everything that runs in Flink's Python workers."""
