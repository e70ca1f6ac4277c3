"""Why a window is not explained."""

from __future__ import annotations

from typing import Literal

from liveprofile.errors import InputError

RefusalKind = Literal[
    "erased-user", "no-consent", "other-model", "other-events", "other-values", "unknown-window"
]


class ExplanationRefused(InputError):
    """The window cannot or may not be explained. `kind`: why, for programs."""

    def __init__(self, kind: RefusalKind, detail: str):
        super().__init__(detail)
        self.kind, self.detail = kind, detail
