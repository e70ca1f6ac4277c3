"""The control group of a campaign, and how many users a comparison needs."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

SIGNIFICANCE = 0.05
POWER = 0.8


def is_control(campaign: str, user_id: str, share: float) -> bool:
    """Whether a user is in the control group, of about `share` of all users.

    The hash is salted with the campaign's name: the groups of two campaigns are independent, and
    planning a campaign again gives the same groups.
    """
    text = f"{campaign}\x1f{user_id}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=b"liveprofile-ctrl").digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def users_needed(rate: float, effect: float, control_share: float) -> int:
    """Returns how many users show a change of a rate by `effect` with the power POWER.

    rate: of the control group. control_share: of all users. A two-sided test at SIGNIFICANCE
    (Fleiss, Levin and Paik 2003, Statistical Methods for Rates and Proportions, section 4.3).
    Raises ValueError for a rate outside 0 to 1.
    """
    treated = rate + effect
    if not 0 <= rate <= 1 or not 0 <= treated <= 1 or not effect or not 0 < control_share < 1:
        raise ValueError(f"rate {rate}, effect {effect}, control {control_share}: not possible")
    ratio = (1 - control_share) / control_share
    mean = (rate + ratio * treated) / (1 + ratio)
    alpha = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2)
    beta = NormalDist().inv_cdf(POWER)
    numerator = alpha * math.sqrt((1 + ratio) * mean * (1 - mean))
    numerator += beta * math.sqrt(ratio * rate * (1 - rate) + treated * (1 - treated))
    control = numerator**2 / (ratio * effect**2)
    return math.ceil(control * (1 + ratio))


def detectable_effect(rate: float, users: int, control_share: float) -> float | None:
    """Returns the smallest increase of a rate that so many users show; None if there is none."""
    if not 0 < control_share < 1 or users_or_more(rate, 1 - rate, control_share) > users:
        return None
    low, high = 0.0, 1 - rate
    for _ in range(50):
        middle = (low + high) / 2
        if users_or_more(rate, middle, control_share) > users:
            low = middle
        else:
            high = middle
    return high


def users_or_more(rate: float, effect: float, control_share: float) -> float:
    """As `users_needed`; infinite for no effect."""
    return users_needed(rate, effect, control_share) if effect > 0 else math.inf
