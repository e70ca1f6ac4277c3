"""Intervals of proportions."""

import math

_Z_95 = 1.959964


def wilson_interval(successes: int, trials: int) -> tuple[float | None, float | None, float | None]:
    """Returns the share with its 95 % score interval (Wilson 1927)."""
    if not trials:
        return None, None, None
    share, z2 = successes / trials, _Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return share, max(0.0, centre - _Z_95 * half), min(1.0, centre + _Z_95 * half)
