"""Every error that Liveprofile raises on purpose: each names the thing, its value, the way out."""


class LiveprofileError(Exception):
    """The root: the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(LiveprofileError):
    """A setting is wrong."""

    exit_code = 2


class InputError(LiveprofileError):
    """A file, mapping, recipe or rule given by the user is wrong."""

    exit_code = 2


class ServiceError(LiveprofileError):
    """Kafka, Cassandra or Flink does not answer or refuses."""

    exit_code = 3


class StoreError(ServiceError):
    """A write kept failing. In the job it fails the checkpoint, and the rows are replayed."""
