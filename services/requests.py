"""Types that the bodies of requests share. Times are UTC epoch milliseconds."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_ID_CHARS = 256
# No control characters, as of events.
ID_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+$"

UserIdText = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS, pattern=ID_PATTERN)]
# JSON has one kind of number: 60.0 is the whole number 60.
WHOLE = BeforeValidator(lambda x: int(x) if isinstance(x, float) and x.is_integer() else x)
WholeNumber = Annotated[int, WHOLE]


class RequestBody(BaseModel):
    """The body of a request. Unknown fields and other types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
