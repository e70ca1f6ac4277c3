"""What operators see: the job, latencies, audits, drift, rejected records."""
