"""Hyperparameter search: a resumable Optuna study (arXiv:1907.10902) in an SQLite file.

Tree-structured Parzen estimators propose trials (Bergstra et al. 2011, NeurIPS 24). Trials worse
than the median of earlier ones are pruned (Golovin et al. 2017, Google Vizier, KDD,
doi:10.1145/3097983.3098043). A trial's value is its best validation loss; no trial reads the test
split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.toml_text import to_toml
from models.profile.data.prepared import PreparedData, prepare
from models.profile.recipes import Recipe
from models.profile.training import distributed, training_state
from models.profile.training.train import fit

Params = dict[str, int | float]
PRUNER_STARTUP_TRIALS = 4  # trials that are never pruned
PRUNER_WARMUP_EPOCHS = 2  # epochs without pruning, since the learning rate still warms up

# It leaves out the loss weights, which scale the compared metric, and enriched_share, which
# prepares for shops that validation does not contain. forgotten_share stays above 0, since
# validation hardly contains ids that are new in the shop.
SEARCH_SPACE = {
    "learning_rate": FloatDistribution(5e-4, 2e-2, log=True),
    "weight_decay": FloatDistribution(1e-3, 0.3, log=True),
    "warm_up_share": FloatDistribution(0.01, 0.2),
    "batch_rows": IntDistribution(32, 512, log=True),
    "dim": CategoricalDistribution((16, 32, 64)),
    "layers": IntDistribution(1, 4),
    "heads": CategoricalDistribution((1, 2, 4)),
    "item_negatives": IntDistribution(64, 2048, log=True),
    "short_history_share": FloatDistribution(0.05, 0.3),
    "forgotten_share": FloatDistribution(0.01, 0.1),
}


class TuningResult(NamedTuple):
    """The best trial so far and the number of finished trials."""

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
) -> TuningResult:
    """Runs trials until the study has `trials` of them, including those of earlier processes.

    The first trial has the recipe's own values. Only one process may use a study at a time: a
    trial that is unfinished at the start counts as killed and is repeated. Raises InputError, also
    for a study of another recipe, other rows or another search space.
    """
    with distributed.process_group(device) as processes, _open_study(file, recipe) as study:
        if processes.size > 1:
            raise InputError("tune runs as one process, without torchrun")
        data = prepare(recipe, rows_path, on_progress)
        _begin_or_resume(study, file, recipe, data)
        while (done := len(_finished_trials(study))) < trials:
            if not done and not study.get_trials(states=(TrialState.WAITING,)):
                study.enqueue_trial({name: getattr(recipe, name) for name in SEARCH_SPACE})
            # A new sampler per trial makes a resumed study propose what it would have proposed.
            study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + done)
            trial = study.ask(SEARCH_SPACE)
            trial_recipe = dataclasses.replace(recipe, **trial.params)

            def on_epoch(epoch: int, loss: float, trial: optuna.Trial = trial) -> None:
                trial.report(loss, epoch)
                if trial.should_prune() or not math.isfinite(loss):
                    raise optuna.TrialPruned

            try:
                trainer = fit(
                    trial_recipe, data, processes, on_progress=on_progress, on_epoch=on_epoch
                )
                loss = min(row["validation_loss"] for row in trainer.curves)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                outcome = "pruned"
            else:
                study.tell(trial, loss)
                outcome = f"validation loss {loss:.5f}"
            values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
            on_note(f"trial {trial.number}: {outcome} ({values})")
            on_progress("trials", done + 1, trials)
        states = [trial.state for trial in _finished_trials(study)]
        if TrialState.COMPLETE not in states:
            raise InputError(f"study {file}: every trial was pruned; increase --trials")
        best = study.best_trial
        return TuningResult(
            best.params,
            best.value,
            best.number,
            states.count(TrialState.COMPLETE),
            states.count(TrialState.PRUNED),
        )


def write_params(file: Path, recipe: Recipe, best: TuningResult) -> None:
    """Writes the best parameters as TOML for `recipes.override_from_toml`."""
    comment = f"Trial {best.trial} of recipe {recipe.name}: validation loss {best.validation_loss}"
    file.write_text(f"# {comment}\n{to_toml(best.params)}", "utf-8")


@contextmanager
def _open_study(file: Path, recipe: Recipe) -> Iterator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    except (SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"study {file}: {str(error).splitlines()[0]}") from None
    try:
        yield optuna.create_study(
            storage=storage,
            pruner=optuna.pruners.MedianPruner(PRUNER_STARTUP_TRIALS, PRUNER_WARMUP_EPOCHS),
            study_name=recipe.name,
            load_if_exists=True,
        )
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _begin_or_resume(study: optuna.Study, file: Path, recipe: Recipe, data: PreparedData) -> None:
    """Stores what identifies a new study, or compares it, and fails trials of a killed process."""
    run = {
        "recipe": dataclasses.asdict(recipe),
        "rows": data.corpus.streams.fingerprint(),
        "space": {name: distribution_to_json(each) for name, each in SEARCH_SPACE.items()},
    }
    if "run" not in study.user_attrs:
        study.set_user_attr("run", run)
    elif changes := training_state.differences(study.user_attrs["run"], run):
        raise InputError(f"study {file}: of another run: {changes}; name another file")
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
