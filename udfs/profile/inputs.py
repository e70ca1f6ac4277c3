"""What a model reads of a batch, and what later steps need of the same texts: parsed once.

docs/data-contract.md, section 4. Shapes: n rows with a usable event.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.events.modalities import TEXT, Vectors, add_text_vectors
from liveprofile.events.window import WindowBatch, parse_windows
from liveprofile.features.baselines import Baselines, read_baselines
from liveprofile.segments.features import PROFILE_FEATURES
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import Histories, read_histories
from liveprofile.wire.output_records import Refused
from models.profile.user_features import (
    add_window,
    feature_matrix,
    recency_days,
    summarize_activity,
)
from udfs.profile.batch import ProfileBatch, Sums

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel, Scores
    from models.profile.text_encoder import TextEncoder

FEATURES = tuple(PROFILE_FEATURES)
Columns = dict[str, np.ndarray]  # (n,) float64 for each of FEATURES, NaN where it is undefined


class ProfileInputs(NamedTuple):
    """A parsed batch. "Before" is without the window, at its start; "after" with it, at its end."""

    rows: list[int]  # n: the rows of the batch that have a usable event, ascending
    refused: list[list[Refused]]  # the unusable events of each row of the batch
    user_id: list[str]
    window_start_ms: np.ndarray  # (n,) int64
    window_end_ms: np.ndarray  # (n,) int64
    windows: WindowBatch
    histories: Histories
    before: Baselines
    after: Baselines
    recency_before: np.ndarray  # (n,) days since the last purchase, NaN without one
    recency_after: np.ndarray
    matrix_before: np.ndarray  # (n, X) the model's numeric inputs: user_features.feature_matrix
    matrix_after: np.ndarray
    vectors: list[Vectors]  # the modality vectors of each window, those of texts excepted
    texts: list[str]  # the newest text of each window; "": none, or the model does not read texts
    attribute_tiles: list[str]  # as of ProfileBatch
    later_sums: list[Sums | None]  # the sums of users who were erased, else None

    @property
    def window_days(self) -> np.ndarray:
        """(n,) the lengths of the windows."""
        return (self.window_end_ms - self.window_start_ms) / DAY_MS


def read_inputs(
    batch: ProfileBatch,
    model: ProfileModel,
    *,
    texts: bool = False,
    later_users: Collection[str] = (),
) -> ProfileInputs:
    """Parses a batch for a model.

    texts: whether the model's texts are encoded. later_users: those with a past that was erased.
    """
    known = model.modalities if texts else model.modalities - {TEXT}
    windows, rows, refused = parse_windows(batch.events, known)
    start_ms, end_ms = batch.window_start_ms[rows], batch.window_end_ms[rows]
    added, sums = batch.added[rows], batch.sums[rows]
    before = read_baselines(sums - added, start_ms, model.decay_days)
    after = read_baselines(sums, end_ms, model.decay_days)
    columns = (batch.user_id, batch.history, batch.purchases, batch.attribute_tiles)
    users, history, purchases, tiles = ([column[row] for row in rows] for column in columns)
    histories = read_histories(history, purchases, start_ms, model.history_windows)
    recency_before = recency_days(start_ms, histories.last_purchase_ms)
    recency_after = recency_days(end_ms, histories.last_purchase_ms_now)
    earlier = summarize_activity(histories.tokens, start_ms)
    current = summarize_activity(windows.tokens, end_ms)
    both = add_window(earlier, current, (end_ms - start_ms) / DAY_MS)
    return ProfileInputs(
        rows=rows,
        refused=refused,
        user_id=users,
        window_start_ms=start_ms,
        window_end_ms=end_ms,
        windows=windows,
        histories=histories,
        before=before,
        after=after,
        recency_before=recency_before,
        recency_after=recency_after,
        matrix_before=feature_matrix(before, recency_before, earlier),
        matrix_after=feature_matrix(after, recency_after, both),
        vectors=[window.modalities.vectors for window in windows.rows],
        texts=[window.text for window in windows.rows],
        attribute_tiles=tiles,
        later_sums=[
            tuple(sums[n].tolist()) if user_id in later_users else None
            for n, user_id in enumerate(users)
        ],
    )


def score(inputs: ProfileInputs, model: ProfileModel, encode_texts: TextEncoder | None) -> Scores:
    """Calls the model. encode_texts: the sentence encoder; None: the model gets no texts."""
    vectors: Sequence[Vectors] = inputs.vectors
    if encode_texts is not None:
        vectors = add_text_vectors(vectors, inputs.texts, encode_texts)
    return model.score(
        inputs.histories.tokens,
        inputs.windows.tokens,
        inputs.matrix_before,
        inputs.matrix_after,
        vectors,
        inputs.histories.memories,
        inputs.window_days,
    )
