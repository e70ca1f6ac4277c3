"""Commands that feed, submit, monitor and audit the job."""
