"""A published data set from its files to its figures, with the backfill in an embedded Flink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from lab.public_data.__main__ import app
from lab.public_data.next_basket import BASELINES

USERS, BASKETS, ITEMS = 60, 7, 40


def write_baskets(folder: Path) -> list[Path]:
    """Each user buys four items of their own again and again, and one of all others."""
    random = np.random.default_rng(1)
    history, future = {}, {}
    for user in range(USERS):
        own = random.choice(ITEMS, 4, replace=False).tolist()
        baskets = [[*own, int(random.integers(ITEMS))] for _ in range(BASKETS)]
        history[str(user)] = [[-1], *baskets[:-1], [-1]]
        future[str(user)] = [[-1], baskets[-1], [-1]]
    files = [folder / f"tiny_{name}.json" for name in ("history", "future")]
    for file, users in zip(files, (history, future), strict=True):
        file.write_text(json.dumps(users))
    return files


def test_last_baskets_are_ranked_by_the_model_and_the_baseline_models(tmp_path: Path) -> None:
    files = write_baskets(tmp_path)
    arguments = ["baskets", *map(str, files), "--work", str(tmp_path / "work")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    sizes = [report[name] for name in ("data", "users", "items", "baskets")]
    assert sizes == ["tiny", USERS, ITEMS, USERS * BASKETS]
    assert report["all"]["windows"] == USERS
    scores = report["all"]["scores"]
    assert set(scores) == {"model", *BASELINES}
    # Four of four or five items are known; popularity does not know whose.
    for name in ("model", "gp_topfreq", "tifu_knn"):
        assert scores[name]["recall_at_10"][0] > 0.8 > scores["popularity"]["recall_at_10"][0]
    assert (tmp_path / "work" / "model" / "card.json").exists()


def test_a_missing_file_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rosbank", str(tmp_path), "--work", str(tmp_path / "work")])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("rosbank: ") and "train.csv" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
