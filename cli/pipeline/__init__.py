"""Commands that feed, submit, watch and audit the job."""
