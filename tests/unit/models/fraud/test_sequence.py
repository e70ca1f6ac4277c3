"""The sequence model: tokens, training, stacking, saved models, scoring pipeline and reasons."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xgboost as xgb

from liveprofile.errors import InputError
from liveprofile.features.entity import EVENT_FEATURES, EventLists, parse_lists
from liveprofile.units import MINUTE_MS
from liveprofile.wire.scored_events import read_rows
from models.fraud.datasets.labelled_features import LabelledFeatures
from models.fraud.explain.reasons import EARLIER_EVENT, explain
from models.fraud.model import CARD_FILE, SEQUENCE_LOG_ODDS, Calibration, FraudModel
from models.fraud.sequence.fit import (
    SequenceRecipe,
    fit_sequence_model,
    log_odds_in_chunks,
    out_of_fold_log_odds,
)
from models.fraud.sequence.network import WEIGHTS, SequenceModel, SequenceNet, SequenceShape
from models.fraud.sequence.tokens import (
    FIELD_OFFSETS,
    SEQUENCE_LENGTH,
    SOURCES,
    TokenSequences,
    tokenize,
)
from models.fraud.training.stacking import (
    SequenceExamples,
    add_out_of_fold_log_odds,
    choose_candidate,
)
from models.profile.evaluation.intervals import UserBootstrap
from tests.reference.entity_features import Arrival, Event, Label
from tests.reference.scoring import decide, event_parts
from tests.reference.sequence import to_token_sequences, token_sequence
from tests.support.scoring_harness import (
    LIKELY,
    ScoringHarness,
    assert_matches_reference,
    random_arrivals,
    user_of,
)

pytestmark = pytest.mark.slow

START_MS = 1_700_000_000_000
ALL_SOURCES = tuple(reversed(SOURCES))


def event_lists(arrivals: list[Arrival], rows_to_score: list[int]) -> EventLists:
    texts = [event_parts(arrivals, row) for row in rows_to_score]
    return parse_lists(read_rows([user_of(arrivals, row) for row in rows_to_score], texts))


def out_of_order(seed: int) -> list[Arrival]:
    """Random arrivals with events that are up to two hours late."""
    random = np.random.default_rng(seed)
    arrivals = random_arrivals(seed)
    late = [event.time_ms + int(random.integers(0, 120)) * MINUTE_MS for event in arrivals]
    return [arrivals[index] for index in np.argsort(late, kind="stable")]


def random_network(shape: SequenceShape = SequenceShape(), seed: int = 0) -> SequenceModel:  # noqa: B008
    """A random network whose attention is not zero."""
    torch.manual_seed(seed)
    network = SequenceNet(shape)
    for block in network.blocks:
        torch.nn.init.normal_(block.mix.weight, std=0.2)
        torch.nn.init.normal_(block.down.weight, std=0.2)
    return SequenceModel(network, shape)


@pytest.mark.parametrize("keep", [1, 5, SEQUENCE_LENGTH])
@pytest.mark.parametrize("sources", [("user",), ("shop", "user"), ALL_SOURCES])
def test_tokens_equal_the_plain_python_reference(keep: int, sources: tuple[str, ...]) -> None:
    arrivals = out_of_order(keep)
    rows_to_score = [row for row, event in enumerate(arrivals) if isinstance(event, Event)]
    result = tokenize(event_lists(arrivals, rows_to_score), sources, keep)
    shape = SequenceShape(sources=sources, keep=keep)
    expected = to_token_sequences([token_sequence(arrivals, row, shape) for row in rows_to_score])
    assert np.array_equal(result.starts, expected.starts)
    assert np.array_equal(result.token_PF, expected.token_PF)
    field_PF = result.token_PF - np.array(list(FIELD_OFFSETS.values()))
    fields = dict(zip(FIELD_OFFSETS, field_PF.T, strict=True))
    label_codes = set((fields["type_and_label"] % 3).tolist())
    assert keep == 1 or {0, 1, 2} <= label_codes  # the arrivals have all kinds of labels


def test_later_event_or_label_that_arrives_earlier_changes_no_token() -> None:
    arrivals = random_arrivals(2)
    row = max(row for row, event in enumerate(arrivals) if isinstance(event, Event))
    scored = arrivals[row]
    later = [
        scored._replace(id="later", time_ms=scored.time_ms + 1),
        Label(scored, True, scored.time_ms + 1),
    ]
    before = tokenize(event_lists(arrivals, [row]))
    after = tokenize(
        event_lists([*arrivals[:row], *later, scored], [row + 2]), keep=SEQUENCE_LENGTH + 2
    )
    assert np.array_equal(before.token_PF, after.token_PF[-len(before.token_PF) :])
    earlier = [
        event for event in arrivals[:row] if isinstance(event, Event) and event.user == scored.user
    ]
    with_label = [*arrivals[:row], Label(earlier[-1], True, scored.time_ms), scored]
    assert not np.array_equal(
        tokenize(event_lists(with_label, [row + 1])).token_PF, before.token_PF
    )


def test_empty_list_gives_nan_and_no_rows_give_no_log_odds() -> None:
    network = random_network()
    rows = event_lists(random_arrivals(3), [0])
    none = rows.user_lists._replace(
        starts=np.zeros(2, np.int64),
        **{name: getattr(rows.user_lists, name)[:0] for name in ("letter", "time_ms", "event")},
        amount=rows.user_lists.amount[:0],
        ids=tuple(ids[:0] for ids in rows.user_lists.ids),
    )
    assert np.isnan(network.log_odds(rows._replace(user_lists=none))).all()
    assert network.log_odds_of_sequences(
        TokenSequences(np.zeros(1, np.int64), np.empty((0, 13), np.uint8))
    ).shape == (0,)


@pytest.mark.parametrize("layers", [1, 2])
def test_log_odds_do_not_depend_on_the_batch(layers: int) -> None:
    """Padding has no effect, whatever the length of the other sequences."""
    network = random_network(SequenceShape(layers=layers))
    arrivals = random_arrivals(4)
    rows_to_score = [row for row, event in enumerate(arrivals) if isinstance(event, Event)]
    batch_log_odds = network.log_odds(event_lists(arrivals, rows_to_score))
    assert np.ptp(batch_log_odds) > 0.1
    for index in (0, 40, len(rows_to_score) - 1):
        single = network.log_odds(event_lists(arrivals, [rows_to_score[index]]))
        assert single[0] == pytest.approx(batch_log_odds[index], abs=1e-5)


def test_first_and_last_token_change_log_odds() -> None:
    network = random_network()
    result = tokenize(event_lists(random_arrivals(5), [200]))
    log_odds = network.log_odds_of_sequences(result)
    for index in (0, -1):
        changed = result.token_PF.copy()
        changed[index, list(FIELD_OFFSETS).index("amount")] += 1
        other = network.log_odds_of_sequences(result._replace(token_PF=changed))
        assert abs(other - log_odds) > 1e-4


def order_dependent_sequences(count: int, seed: int = 6) -> tuple[TokenSequences, np.ndarray]:
    """A legitimate purchase is on the device of the last login, a fraud on that of the login before
    it: only the order separates them."""
    random = np.random.default_rng(seed)
    fraud_n = random.random(count) < 0.3
    rows = []
    for number, fraud in enumerate(fraud_n):
        steps = (START_MS + np.sort(random.choice(10_000, 3, replace=False)) * 1_000).tolist()
        scored, other = ("d1", "d2") if fraud else ("d2", "d1")
        arrivals = [
            Event(f"{number}a", "u", "login", steps[0], 0.0, scored),
            Event(f"{number}b", "u", "login", steps[1], 0.0, other),
            Event(f"{number}c", "u", "purchase", steps[2], 20.0, "d1"),
        ]
        rows.append(token_sequence(arrivals, 2, SequenceShape()))
    return to_token_sequences(rows), fraud_n


RECIPE = SequenceRecipe(SequenceShape(dim=16), epochs=6, batch=64, learning_rate=1e-2)


def test_network_learns_frauds_that_differ_only_in_order() -> None:
    train_tokens, fraud = order_dependent_sequences(600)
    network = fit_sequence_model(train_tokens, fraud, RECIPE)
    test_tokens, test_fraud = order_dependent_sequences(200, seed=7)
    result = log_odds_in_chunks(network, test_tokens)
    assert ((result > 0) == test_fraud).mean() > 0.95
    repeated = log_odds_in_chunks(fit_sequence_model(train_tokens, fraud, RECIPE), test_tokens)
    assert np.array_equal(repeated, result)


def test_out_of_fold_log_odds_do_not_depend_on_labels_of_their_group() -> None:
    train_tokens, fraud = order_dependent_sequences(240)
    group = np.arange(len(fraud)) % 4 + 10
    recipe = replace(RECIPE, epochs=1)
    first = out_of_fold_log_odds(train_tokens, fraud, group, recipe)
    flipped = np.where(group == 11, ~fraud, fraud)
    repeated = out_of_fold_log_odds(train_tokens, flipped, group, recipe)
    assert np.array_equal(first[group == 11], repeated[group == 11])
    assert not np.array_equal(first[group != 11], repeated[group != 11])


def examples(count: int, seed: int) -> SequenceExamples:
    """Examples with one random feature."""
    train_tokens, fraud = order_dependent_sequences(count, seed)
    x = np.random.default_rng(seed + 100).random((count, 1)).astype(np.float32)
    return SequenceExamples(
        LabelledFeatures(x, fraud), train_tokens, np.arange(count), np.arange(count) % 3
    )


SETTINGS = [{"max_depth": 2, "rounds": 30, "eta": 0.3}]


def test_sequence_model_is_chosen_if_it_improves_validation() -> None:
    train, validation = examples(900, 6), examples(200, 7)
    result = choose_candidate(train, 1.0, validation, ["amount"], RECIPE, SETTINGS)
    trees, both, (low, high) = (result.chosen_by[name] for name in ("trees", "both", "gain_95"))
    assert both > trees + 0.3
    assert 0.2 < low < both - trees < high
    chosen = result.chosen
    assert chosen.names == ["amount", SEQUENCE_LOG_ODDS]
    assert chosen.train.x_NF.shape == (900, 2)
    assert np.array_equal(
        chosen.validation.x_NF[:, 1], log_odds_in_chunks(chosen.sequence, validation.tokens)
    )
    held_out = out_of_fold_log_odds(train.tokens, train.labelled.fraud_N, train.group_N, RECIPE)
    assert np.array_equal(chosen.train.x_NF[:, 1], held_out)


def test_trees_alone_are_chosen_if_the_sequence_model_does_not_improve_validation() -> None:
    train, validation = (
        original._replace(
            labelled=original.labelled._replace(
                x_NF=original.labelled.fraud_N[:, None].astype(np.float32)
            )
        )
        for original in (examples(100, 6), examples(60, 7))
    )
    recipe = replace(RECIPE, epochs=1)
    chosen, chosen_by = choose_candidate(train, 1.0, validation, ["amount"], recipe, SETTINGS)
    assert chosen_by["trees"] == 1.0
    assert (chosen.names, chosen.sequence) == (["amount"], None)


def test_gain_from_a_single_user_is_not_significant() -> None:
    """Half of the frauds are one user's. Without that user both candidates are equal."""
    fraud = np.arange(200) < 20
    user = np.where(np.arange(200) < 10, 1_000, np.arange(200))
    trees = np.where(fraud, 1.0, 0.0)
    trees[:10] = -1.0
    both = np.where(fraud, 1.0, 0.0)
    _, low, high = UserBootstrap(user).average_precision(both, trees, fraud)
    assert low == 0.0 < 0.3 < high
    _, low, _ = UserBootstrap(np.arange(200)).average_precision(both, trees, fraud)
    assert low > 0.1


@pytest.fixture(scope="module")
def model() -> FraudModel:
    """Trees that use only the sequence model."""
    names = [*EVENT_FEATURES, SEQUENCE_LOG_ODDS]
    random = np.random.default_rng(1)
    x = np.zeros((400, len(names)), np.float32)
    x[:, -1] = random.normal(0, 1, 400)
    data = xgb.DMatrix(x, x[:, -1], feature_names=names)
    booster = xgb.train({"objective": "reg:squarederror", "nthread": 1}, data, 40)
    usual = {"any": [0.0] * (len(names) - 1) + [-3.0]}
    return FraudModel(
        "sequences",
        names,
        7.0,
        booster,
        Calibration(1.0, 0.0),
        usual,
        {},
        sequence=random_network(),
    )


def test_saved_and_loaded_model_gives_the_same_scores(model: FraudModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    repeated = FraudModel.load(tmp_path, device="cpu")
    rows = event_lists(random_arrivals(8), [100, 120, 121])
    assert np.array_equal(repeated.score(repeated.columns(rows)), model.score(model.columns(rows)))
    assert repeated.version == model.version
    assert repeated.version != replace(model, sequence=random_network(seed=1)).version
    assert repeated.sequence.shape == model.sequence.shape


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("other", "the SHA-256 differs from its card's"),
        ("missing", "No such file"),
        ("shape", "size mismatch"),
        ("none", f"needs the unknown feature {SEQUENCE_LOG_ODDS}"),
    ],
)
def test_inconsistent_folder_is_rejected(
    model: FraudModel, tmp_path: Path, broken: str, message: str
) -> None:
    model.save(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    if broken == "other":
        (tmp_path / WEIGHTS).write_bytes(random_network(seed=2).weights)
    elif broken == "missing":
        (tmp_path / WEIGHTS).unlink()
    elif broken == "shape":
        card["sequence"]["shape"]["dim"] = 8
    else:
        del card["sequence"]
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(InputError, match=message):
        FraudModel.load(tmp_path)


def test_scoring_pipeline_uses_the_sequence_model(model: FraudModel) -> None:
    arrivals, harness = random_arrivals(9), ScoringHarness(model, LIKELY)
    rows = [row for row, event in enumerate(arrivals) if isinstance(event, Event)]
    for start in range(0, len(rows), 50):
        harness.score(arrivals, rows[start : start + 50])
    expected = decide(arrivals, [LIKELY], model, max_entries=128)
    assert len({decision.score for decision in expected.values()}) > 5
    assert_matches_reference(harness.sink, expected)


def test_sequence_reason_names_the_event_with_the_largest_drop(model: FraudModel) -> None:
    arrivals = random_arrivals(10)
    rows_to_score = [row for row, event in enumerate(arrivals) if isinstance(event, Event)][100:]
    rows = event_lists(arrivals, rows_to_score)
    columns = model.columns(rows)
    x = model.matrix(columns)
    [flagged, *_] = np.argsort(-model.score(columns), kind="stable")
    reasons = explain(model, rows, x, np.array([flagged]))[0]
    [reason] = [reason for reason in reasons if reason.code != EARLIER_EVENT]
    assert reason.code == "SEQUENCE"
    assert reason.value == pytest.approx(columns[SEQUENCE_LOG_ODDS][flagged], rel=1e-5)
    assert reason.sentence.startswith("order and timing of this user's events: the last ")
    without_event = {}
    lists, scored = rows.user_lists, rows_to_score[flagged]
    for index in range(lists.starts[flagged], lists.starts[flagged + 1] - 1):
        if (
            lists.letter[index] >= ord("a")
            and lists.event[index] != lists.event[lists.starts[flagged + 1] - 1]
        ):
            tried = rows.without_event(np.array([flagged]), lists.event[[index]])
            without_event[int(lists.time_ms[index])] = float(model.sequence.log_odds(tried)[0])
    newest = dict(list(without_event.items())[-16:])
    named = min(newest, key=newest.get)
    stamp = np.datetime64(named // 1_000, "s").item()
    assert "most of all the " in reason.sentence
    assert f"at {stamp:%Y-%m-%d %H:%M:%S} UTC" in reason.sentence
    assert isinstance(arrivals[scored], Event)


def test_sequence_reason_of_a_first_event_says_that_there_is_no_earlier_event(
    model: FraudModel,
) -> None:
    arrivals = [Event("a", "u", "purchase", START_MS, 20.0, "d")]
    rows = event_lists(arrivals, [0])
    x = model.matrix(model.columns(rows))
    result = explain(model, rows, x, np.array([0]))[0]
    words = "order and timing of this user's events: no earlier event of this user is known"
    assert [reason.sentence for reason in result] == [words]


def test_adding_log_odds_keeps_the_other_features() -> None:
    train = examples(90, 6)
    labelled, network = add_out_of_fold_log_odds(train, replace(RECIPE, epochs=1))
    assert np.array_equal(labelled.x_NF[:, :1], train.labelled.x_NF)
    assert labelled.x_NF.dtype == np.float32
    assert network.shape == RECIPE.shape
