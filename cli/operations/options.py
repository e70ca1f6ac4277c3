"""Values of options that the commands of this folder share."""

from __future__ import annotations

from liveprofile.errors import InputError


def event_types(option: str, text: str, at_least: int = 1) -> list[str]:
    """Event types separated by commas. Raises InputError."""
    from liveprofile.wire.tokens import EVENT_TYPES

    names = text.split(",")
    for name in names:
        if name not in EVENT_TYPES:
            raise InputError(f"{option} {name!r}: not one of {', '.join(EVENT_TYPES)}")
    if len(names) < at_least:
        raise InputError(f"{option} {text!r}: give {at_least} or more, separated by commas")
    return names
