"""A small shop with planted cases of every kind."""

SMALL = {
    "users": 400,
    "days": 12,
    "takeovers": 6,
    "card_tests": 3,
    "rings": 2,
    "honest_changes": 12,
    "campaigns": 2,
    "ring_users": 20,
    "ring_devices": 2,
}
