"""Commands about the life of the job: set-up, stop, cancel, upgrade."""
