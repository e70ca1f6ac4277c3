"""Takes what users have had erased out of the lists of the scoring pipeline.

Flink's state keeps the last K tokens of each user and entity; those from before an erasure are
skipped here until later ones have replaced them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from liveprofile.features.entity import EventLists, TokenLists
from liveprofile.privacy.erasures import HashedErasureBook


def later_lists(lists: EventLists, user_ids: Sequence[str], book: HashedErasureBook) -> EventLists:
    """The lists of n events without erased tokens. The event's own token, its list's last, stays.

    user_ids: of each event.
    """
    if not len(book):
        return lists
    of_user, of_entity = lists.user_lists, lists.entity_lists
    before_ms = np.array([book.before_ms(user_id) or 0 for user_id in user_ids], np.int64)
    if before_ms.any():
        erased_T = of_user.time_ms < np.repeat(before_ms, np.diff(of_user.starts))
        of_user = _without(of_user, erased_T)
    erased_T = book.erased(of_entity.ids[0], of_entity.time_ms)
    if erased_T.any():
        of_entity = _without(of_entity, erased_T)
    return lists._replace(user_lists=of_user, entity_lists=of_entity)


def _without(lists: TokenLists, erased_T: np.ndarray) -> TokenLists:
    last = lists.starts[1:][np.diff(lists.starts) > 0] - 1
    erased_T[last] = False
    return lists.where(~erased_T)
