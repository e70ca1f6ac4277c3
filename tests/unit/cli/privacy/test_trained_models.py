"""The table of `liveprofile privacy erase --checkpoints`."""

from pathlib import Path

from cli.common import table
from cli.privacy import CHECKPOINT
from liveprofile.privacy.trained_users import TrainedCheckpoint, TrainedUsers, user_key


def test_table_says_which_models_to_train_again() -> None:
    trained = TrainedUsers.of_training([user_key("a"), user_key("b")], "rows")
    made = table(
        None,
        [
            TrainedCheckpoint(Path("clean"), "1", trained, []),
            TrainedCheckpoint(Path("old"), "2", trained, ["a"]),
            TrainedCheckpoint(Path("foreign"), "3", None, []),
        ],
        CHECKPOINT,
    )
    rows = list(zip(*(column.cells for column in made.columns), strict=True))
    assert [row[:4] for row in rows] == [
        ("clean", "1", "2", "0"),
        ("old", "2", "2", "1"),
        ("foreign", "3", "unknown", "unknown"),
    ]
    assert [bool(row[4]) for row in rows] == [False, True, True]
