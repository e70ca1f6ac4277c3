"""What learns. Each training reports to a `Progress`: the stage, how much is done, of how much."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
