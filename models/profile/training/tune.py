"""Hyperparameters by trial: an Optuna study (arXiv:1907.10902) in an SQLite file, which goes on.

Tree-structured Parzen estimators propose (Bergstra et al. 2011, NeurIPS 24), and what is worse than
the median of the trials before it ends early (Golovin et al. 2017, Google Vizier, KDD,
doi:10.1145/3097983.3098043). A trial is worth its best loss on validation; no trial reads the test
part.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile.data.prepared import Prepared
from models.profile.recipes import SEARCH_SPACE, Range, Recipe
from models.profile.training import distributed, training_state
from models.profile.training.train import fit, prepare

Params = dict[str, int | float]
FULL_TRIALS = 4  # before any is ended early,
FULL_EPOCHS = 2  # and none before these, in which the learning rate still warms up


class Result(NamedTuple):
    """The best trial so far, and all that came to an end."""

    params: Params
    validation_loss: float
    trial: int
    complete: int
    pruned: int


def tune(
    recipe: Recipe,
    rows_path: Path,
    file: Path,
    trials: int,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
    *,
    device: str = "cpu",
) -> Result:
    """Goes on until the study has so many trials, those of earlier processes included.

    The first has the recipe's own values. One process at a time: a trial that is not finished when
    it starts was killed, and is done again. Raises InputError, also for a study of another recipe,
    other rows or another search space.
    """
    space = {name: _distribution(recipe, name) for name in SEARCH_SPACE}
    with distributed.ranks(device) as ranks, _study(file, recipe) as study:
        if ranks.size > 1:
            raise InputError("tune runs as one process, without torchrun")
        data = prepare(recipe, rows_path, on_progress)
        _open(study, file, recipe, data)
        while (done := len(_finished(study))) < trials:
            if not done and not study.get_trials(states=(TrialState.WAITING,)):
                study.enqueue_trial({name: getattr(recipe, name) for name in SEARCH_SPACE})
            # Anew for each, so that a study that was killed proposes what it would have.
            study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + done)
            trial = study.ask(space)
            chosen = dataclasses.replace(recipe, **trial.params)
            try:
                loss = _loss(chosen, data, ranks, trial, on_progress)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                outcome = "ended early"
            else:
                study.tell(trial, loss)
                outcome = f"validation loss {loss:.5f}"
            values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
            on_note(f"trial {trial.number}: {outcome} ({values})")
            on_progress("trials", done + 1, trials)
        states = [trial.state for trial in _finished(study)]
        if TrialState.COMPLETE not in states:
            raise InputError(f"study {file}: no trial came to its end; ask for more --trials")
        best = study.best_trial
        return Result(
            best.params,
            best.value,
            best.number,
            states.count(TrialState.COMPLETE),
            states.count(TrialState.PRUNED),
        )


def write_params(file: Path, recipe: Recipe, best: Result) -> None:
    """TOML that recipes.with_params reads."""
    lines = [
        f"# Trial {best.trial} of recipe {recipe.name}: validation loss {best.validation_loss}"
    ]
    lines += [f"{name} = {value!r}" for name, value in best.params.items()]
    file.write_text("\n".join(lines) + "\n")


def _loss(
    recipe: Recipe,
    data: Prepared,
    ranks: distributed.Ranks,
    trial: optuna.Trial,
    on_progress: Progress,
) -> float:
    def on_epoch(epoch: int, loss: float) -> None:
        trial.report(loss, epoch)
        if trial.should_prune() or not math.isfinite(loss):
            raise optuna.TrialPruned

    trainer = fit(recipe, data, ranks, on_progress=on_progress, on_epoch=on_epoch)
    return min(row["validation_loss"] for row in trainer.curves)


def _distribution(recipe: Recipe, name: str) -> BaseDistribution:
    bounds = SEARCH_SPACE[name]
    if not isinstance(bounds, Range):
        return CategoricalDistribution(bounds)
    whole = isinstance(getattr(recipe, name), int)
    return (IntDistribution if whole else FloatDistribution)(bounds.low, bounds.high, bounds.log)


@contextmanager
def _study(file: Path, recipe: Recipe) -> Iterator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    except (SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"study {file}: {str(error).splitlines()[0]}") from None
    try:
        yield optuna.create_study(
            storage=storage,
            pruner=optuna.pruners.MedianPruner(FULL_TRIALS, FULL_EPOCHS),
            study_name=recipe.name,
            load_if_exists=True,
        )
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _open(study: optuna.Study, file: Path, recipe: Recipe, data: Prepared) -> None:
    """Begins a new study, or readies one that a killed process left."""
    run = {
        "recipe": dataclasses.asdict(recipe),
        "rows": data.corpus.streams.fingerprint(),
        "space": SEARCH_SPACE,
    }
    run = json.loads(json.dumps(run))  # as the file gives it back
    if "run" not in study.user_attrs:
        study.set_user_attr("run", run)
    elif differ := training_state.differences(study.user_attrs["run"], run):
        raise InputError(f"study {file}: of another run: {differ}; name another file")
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
