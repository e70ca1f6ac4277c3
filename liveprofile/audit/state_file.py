"""The file in which an audit notes where the next one must start."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from liveprofile.errors import InputError


class AuditState(BaseModel):
    """All records of the topic before these offsets have had a clean audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str
    offsets: dict[NonNegativeInt, NonNegativeInt]  # by partition


def read_state(file: Path, topic: str) -> AuditState | None:
    """Returns the state of the topic; None if there is no file.

    Raises InputError if the file is of another topic, or no state.
    """
    try:
        state = AuditState.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"audit state {file}: {first_line}") from None
    if state.topic != topic:
        raise InputError(f"audit state {file} is of topic {state.topic}, not {topic}")
    return state


def require_usable(file: Path, topic: str) -> None:
    """Raises InputError if the file is of another topic, or no state, or cannot be written."""
    read_state(file, topic)
    if not os.access(file.parent, os.W_OK):
        raise InputError(f"audit state {file}: no folder {file.parent} that can be written to")


def write_state(file: Path, state: AuditState) -> None:
    """Replaces the file in one step, so that it is always complete. Raises InputError."""
    new = file.with_name(f"{file.name}.new")
    try:
        with new.open("w") as output:
            output.write(state.model_dump_json())
            output.flush()
            os.fsync(output.fileno())
        new.replace(file)
    except OSError as error:
        raise InputError(f"audit state {file}: {error.strerror}") from None
