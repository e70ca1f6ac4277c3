"""The exceptions that Liveprofile raises: each message names the object, its value and a remedy."""


class LiveprofileError(Exception):
    """Base class. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(LiveprofileError):
    """A setting is wrong."""

    exit_code = 2


class InputError(LiveprofileError):
    """A file, mapping, recipe or rule given by the user is wrong."""

    exit_code = 2


class ServiceError(LiveprofileError):
    """Kafka, Cassandra or Flink does not answer or refuses a request."""

    exit_code = 3


class SetupError(ServiceError):
    """`liveprofile job setup` is under way, or must be run again."""


class ServiceUnavailableError(ServiceError):
    """A service does not answer in time. Reading again may help (liveprofile/retry.py)."""


class PortTakenError(ServiceError):
    """A service could not start, because another process has one of its ports."""


class StoreError(ServiceError):
    """A write still fails after all retries.

    In the job it fails the Flink checkpoint, and Flink replays the rows.
    """
