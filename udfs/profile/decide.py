"""What is decided of a batch of windows: true rules, flags, segments, memberships, permissions.

docs/data-contract.md, section 6. Shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.consent.changes import ConsentTable
from liveprofile.features.affinity import CategoryAffinity, category_affinity
from liveprofile.features.baselines import Baselines
from liveprofile.features.window_features import window_features
from liveprofile.rows.profiles import NEW_USER_WINDOWS
from liveprofile.rules.conditions import TextCall
from liveprofile.rules.flag_policy import FlagPolicy, RuleEvaluation, RuleMatch, evaluate_rules
from liveprofile.rules.flags import Flag
from liveprofile.rules.rules import RuleSet
from liveprofile.segments.evaluation import Evaluation, evaluate
from liveprofile.segments.features import SegmentInputs, features_at
from liveprofile.segments.membership import EvaluatedWindow, MembershipPolicy, MembershipWrite
from liveprofile.settings import Settings
from liveprofile.wire.tokens import TYPE_INDEX
from udfs.attribute_reads import CachedAttributes
from udfs.cassandra.encoding import window_time_us
from udfs.cassandra.memberships import rewrite_after_ms
from udfs.privacy import LaterFlags, LaterMemberships
from udfs.profile.inputs import FEATURES, Columns, ProfileInputs
from udfs.profile.stored_users import StoredUsers
from udfs.worker import Feeds

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores

_DECIMALS = 6


class Decisions(NamedTuple):
    """What is decided of n windows, and the values that it was decided by."""

    before: Columns  # without the window
    after: Columns
    affinities: CategoryAffinity
    used_coupon: np.ndarray  # (n,) bool: in the last windows
    # n: the likeliest next categories, best first; none without permission to recommend
    interests: list[dict[str, float]]
    recommends: Sequence[bool]  # n: whether the user gets recommendations
    matches: list[list[RuleMatch]]  # n: the rules that are true
    flags: list[list[Flag]]  # n: those that these rules raise
    segments: list[frozenset[str]]  # n: the ACTIVE segments of the user
    memberships: list[list[MembershipWrite]]  # n: of segments that changed
    knows_user: np.ndarray  # (n,) bool: the user has more than NEW_USER_WINDOWS windows


class Decider:
    """Decides by the rules, segments and consents in force. users: what is stored of users.

    Call `memberships.stored` when everything of a batch is stored.
    """

    def __init__(self, settings: Settings, users: StoredUsers, feeds: Feeds):
        self._feeds, self._decay_days = feeds, settings.state.decay_days
        length_ms, erased = settings.window.length_ms, feeds.erasures.current
        self._flag_policy = FlagPolicy(LaterFlags(users, length_ms, erased))
        self.memberships = MembershipPolicy(
            LaterMemberships(users, length_ms, erased), rewrite_after_ms(settings.cassandra)
        )
        self._attributes = CachedAttributes(users)

    def decide_windows(
        self, inputs: ProfileInputs, scores: Scores, model: ProfileModel
    ) -> Decisions:
        """Decides a parsed batch that the model has scored. Raises StoreError."""
        before = _features(
            inputs.before, inputs.recency_before, scores.churn_before, scores.spend_before
        )
        after = _features(
            inputs.after, inputs.recency_after, scores.churn_after, scores.spend_after
        )
        window = _window_columns(inputs, scores)
        used_coupon = _coupon_users(inputs)
        served = probabilities_by_name(
            model.categories, scores.interests_after, scores.interests_after_p
        )
        end_ms, ends_ms = inputs.window_end_ms, inputs.window_end_ms.tolist()
        rules, segments = self._feeds.rules.current(), self._feeds.segments.current()
        consents = self._feeds.consents.current()
        recommends = consents.allowed_rows(inputs.user_id, "recommendation", ends_ms)
        allows_risk = consents.allowed_rows(inputs.user_id, "risk", ends_ms)
        interests = [row if yes else {} for row, yes in zip(served, recommends, strict=True)]
        affinities = category_affinity(
            inputs.histories.tokens,
            inputs.windows.tokens,
            inputs.window_start_ms,
            end_ms,
            self._decay_days,
        )
        attributes = self._attributes.of_batch(
            inputs.user_id,
            ends_ms,
            inputs.attribute_tiles,
            rules.attributes("window"),
            segments.attributes,
        )
        columns = window_features(before, window)
        matches, flags = self._flags(
            inputs.user_id, ends_ms, rules, columns | attributes.columns, allows_risk
        )
        evaluation = evaluate(
            segments,
            SegmentInputs(
                features_at(after, used_coupon, end_ms, end_ms, decay_days=1.0),
                interests,
                affinities.shares,
                attributes.values,
            ),
        )
        return Decisions(
            before,
            after,
            affinities,
            used_coupon,
            interests,
            recommends,
            matches,
            flags,
            evaluation.names("ACTIVE"),
            self._membership_changes(inputs.user_id, ends_ms, model.revision, evaluation, consents),
            after["windows"] > NEW_USER_WINDOWS,
        )

    def _flags(
        self,
        user_ids: Sequence[str],
        ends_ms: Sequence[int],
        rules: RuleSet,
        columns: dict[str | TextCall, np.ndarray],
        allows_risk: Sequence[bool],
    ) -> tuple[list[list[RuleMatch]], list[list[Flag]]]:
        """The true rules of n windows, and the flags that they raise."""
        found = evaluate_rules(rules.evaluated("window"), columns, len(user_ids))
        # Without `risk` no rule is true: a rule that still is raises a flag after a new grant.
        matches = [true if yes else [] for true, yes in zip(found, allows_risk, strict=True)]
        windows = [
            RuleEvaluation(user_id, end_ms, of_window)
            for user_id, end_ms, of_window in zip(user_ids, ends_ms, matches, strict=True)
        ]
        return matches, self._flag_policy.raise_flags(windows, rules.version)

    def _membership_changes(
        self,
        user_ids: Sequence[str],
        ends_ms: Sequence[int],
        revision: int,
        evaluation: Evaluation,
        consents: ConsentTable,
    ) -> list[list[MembershipWrite]]:
        """What n windows change of memberships."""
        columns = zip(user_ids, ends_ms, evaluation.names(), strict=True)
        windows = [
            EvaluatedWindow(
                user_id,
                end_ms,
                window_time_us(end_ms, revision),
                names,
                partial(evaluation.evidence, row=row),
                consents.allowed(user_id, "marketing", end_ms),
            )
            for row, (user_id, end_ms, names) in enumerate(columns)
        ]
        return self.memberships.changes(windows, evaluation.segments)


def _features(
    base: Baselines, recency: np.ndarray, churn: np.ndarray, spend: np.ndarray
) -> Columns:
    known = {"recency_days": recency, "churn": churn, "expected_spend": spend}
    columns = {name: known[name] if name in known else getattr(base, name) for name in FEATURES}
    return {
        name: np.round(column.astype(np.float64), _DECIMALS) for name, column in columns.items()
    }


def _window_columns(inputs: ProfileInputs, scores: Scores) -> Columns:
    """Those of liveprofile.features.window_features.CURRENT_WINDOW."""
    return {
        "events": inputs.windows.tokens.sizes,
        "purchases": inputs.windows.counts[:, TYPE_INDEX["purchase"]],
        "amount": inputs.windows.amount,
        "surprise": scores.surprise,
    }


def _coupon_users(inputs: ProfileInputs) -> np.ndarray:
    tokens = inputs.histories.tokens
    users = np.array([window.used_coupon for window in inputs.windows.rows], bool)
    users[tokens.row_of[tokens.type_index == TYPE_INDEX["coupon"]]] = True
    return users


def probabilities_by_name(
    names: list[str], index: np.ndarray, p: np.ndarray
) -> list[dict[str, float]]:
    """The interests of n rows as they are stored. index, p: (n, k); -1: no more."""
    return [
        {names[i]: p for i, p in zip(ids, ps, strict=True) if i >= 0}
        for ids, ps in zip(index.tolist(), np.round(p.astype(np.float64), 4).tolist(), strict=True)
    ]
