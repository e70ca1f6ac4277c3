"""The sequence model of single events: its tokens, its training, and what the lane makes of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xgboost as xgb

from liveprofile.errors import InputError
from liveprofile.features.entity import NAMES, Rows, read
from liveprofile.units import MINUTE_MS
from liveprofile.wire.scored_events import read_rows
from models.fraud.datasets.part import Part
from models.fraud.explain.reasons import EARLIER_EVENT, explain
from models.fraud.model import CARD, SEQUENCE, Calibration, EventModel
from models.fraud.sequence.fit import SequenceRecipe, fit, in_parts, out_of_fold
from models.fraud.sequence.network import WEIGHTS, EventSequence, Net, Shape
from models.fraud.sequence.tokens import FIRST_ROW, KEEP, SOURCES, Tokens, tokens_of
from models.fraud.training.stacking import Examples, learn, stack
from models.profile.evaluation.intervals import Bootstrap
from tests.reference.entity_features import Arrival, Event, Label
from tests.reference.scoring import decide, parts
from tests.reference.sequence import sequence, tokens
from tests.unit.udfs.scoring.test_batch import LIKELY, Lane, assert_decided, stream, user

START_MS = 1_700_000_000_000
EVERYTHING = tuple(reversed(SOURCES))


def rows_of(arrivals: list[Arrival], wanted: list[int]) -> Rows:
    texts = [parts(arrivals, row) for row in wanted]
    return read(read_rows([user(arrivals, row) for row in wanted], texts))


def out_of_order(seed: int) -> list[Arrival]:
    """As `stream`, but events come up to two hours late."""
    random = np.random.default_rng(seed)
    arrivals = stream(seed)
    late = [one.time_ms + int(random.integers(0, 120)) * MINUTE_MS for one in arrivals]
    return [arrivals[place] for place in np.argsort(late, kind="stable")]


def new_net(shape: Shape = Shape(), seed: int = 0) -> EventSequence:  # noqa: B008
    """One whose attention is no longer zero."""
    torch.manual_seed(seed)
    net = Net(shape)
    for block in net.blocks:
        torch.nn.init.normal_(block.mix.weight, std=0.2)
        torch.nn.init.normal_(block.down.weight, std=0.2)
    return EventSequence(net, shape)


@pytest.mark.parametrize("keep", [1, 5, KEEP])
@pytest.mark.parametrize("sources", [("user",), ("shop", "user"), EVERYTHING])
def test_tokens_are_what_plain_python_finds(keep: int, sources: tuple[str, ...]) -> None:
    arrivals = out_of_order(keep)
    wanted = [row for row, one in enumerate(arrivals) if isinstance(one, Event)]
    found = tokens_of(rows_of(arrivals, wanted), sources, keep)
    shape = Shape(sources=sources, keep=keep)
    expected = tokens([sequence(arrivals, row, shape) for row in wanted])
    assert np.array_equal(found.starts, expected.starts)
    assert np.array_equal(found.row_PF, expected.row_PF)
    field_PF = found.row_PF - np.array(list(FIRST_ROW.values()))
    told = dict(zip(FIRST_ROW, field_PF.T, strict=True))
    assert keep == 1 or {0, 1, 2} <= set((told["what"] % 3).tolist())  # all verdicts are tried


def test_nothing_later_is_seen() -> None:
    """An event or a label with a later time changes no token, though it came before."""
    arrivals = stream(2)
    row = max(row for row, one in enumerate(arrivals) if isinstance(one, Event))
    own = arrivals[row]
    later = [
        own._replace(id="later", time_ms=own.time_ms + 1),
        Label(own, True, own.time_ms + 1),
    ]
    before = tokens_of(rows_of(arrivals, [row]))
    after = tokens_of(rows_of([*arrivals[:row], *later, own], [row + 2]), keep=KEEP + 2)
    assert np.array_equal(before.row_PF, after.row_PF[-len(before.row_PF) :])
    earlier = [one for one in arrivals[:row] if isinstance(one, Event) and one.user == own.user]
    judged = [*arrivals[:row], Label(earlier[-1], True, own.time_ms), own]
    assert not np.array_equal(tokens_of(rows_of(judged, [row + 1])).row_PF, before.row_PF)


def test_no_lists_and_no_rows_are_no_error() -> None:
    net = new_net()
    rows = rows_of(stream(3), [0])
    none = rows.of_user._replace(
        starts=np.zeros(2, np.int64),
        **{name: getattr(rows.of_user, name)[:0] for name in ("letter", "time_ms", "event")},
        amount=rows.of_user.amount[:0],
        ids=tuple(ids[:0] for ids in rows.of_user.ids),
    )
    assert np.isnan(net.log_odds(rows._replace(of_user=none))).all()
    assert net.of_tokens(Tokens(np.zeros(1, np.int64), np.empty((0, 13), np.uint8))).shape == (0,)


@pytest.mark.parametrize("layers", [1, 2])
def test_log_odds_do_not_depend_on_the_batch(layers: int) -> None:
    """Padding is not seen, whatever length the others have."""
    net = new_net(Shape(layers=layers))
    arrivals = stream(4)
    wanted = [row for row, one in enumerate(arrivals) if isinstance(one, Event)]
    together = net.log_odds(rows_of(arrivals, wanted))
    assert np.ptp(together) > 0.1
    for place in (0, 40, len(wanted) - 1):
        alone = net.log_odds(rows_of(arrivals, [wanted[place]]))
        assert alone[0] == pytest.approx(together[place], abs=1e-5)


def test_the_last_event_is_asked_and_earlier_ones_matter() -> None:
    net = new_net()
    found = tokens_of(rows_of(stream(5), [200]))
    log_odds = net.of_tokens(found)
    for place in (0, -1):
        changed = found.row_PF.copy()
        changed[place, list(FIRST_ROW).index("amount")] += 1
        assert abs(net.of_tokens(found._replace(row_PF=changed)) - log_odds) > 1e-4


def planted(count: int, seed: int = 6) -> tuple[Tokens, np.ndarray]:
    """A purchase on the device of the login before it, or, as a fraud, on that of the login before
    that: only the order tells."""
    random = np.random.default_rng(seed)
    fraud_n = random.random(count) < 0.3
    rows = []
    for number, fraud in enumerate(fraud_n):
        steps = (START_MS + np.sort(random.choice(10_000, 3, replace=False)) * 1_000).tolist()
        own, other = ("d1", "d2") if fraud else ("d2", "d1")
        arrivals = [
            Event(f"{number}a", "u", "login", steps[0], 0.0, own),
            Event(f"{number}b", "u", "login", steps[1], 0.0, other),
            Event(f"{number}c", "u", "purchase", steps[2], 20.0, "d1"),
        ]
        rows.append(sequence(arrivals, 2, Shape()))
    return tokens(rows), fraud_n


RECIPE = SequenceRecipe(Shape(dim=16), epochs=6, batch=64, learning_rate=1e-2)


def test_it_learns_what_only_the_order_tells() -> None:
    learnt, fraud = planted(600)
    net = fit(learnt, fraud, RECIPE)
    held, held_fraud = planted(200, seed=7)
    found = in_parts(net, held)
    assert ((found > 0) == held_fraud).mean() > 0.95
    assert np.array_equal(in_parts(fit(learnt, fraud, RECIPE), held), found)  # seeds are fixed


def test_a_log_odds_out_of_fold_knows_nothing_of_its_group() -> None:
    learnt, fraud = planted(240)
    group = np.arange(len(fraud)) % 4 + 10
    recipe = replace(RECIPE, epochs=1)
    first = out_of_fold(learnt, fraud, group, recipe)
    turned = np.where(group == 11, ~fraud, fraud)
    again = out_of_fold(learnt, turned, group, recipe)
    assert np.array_equal(first[group == 11], again[group == 11])
    assert not np.array_equal(first[group != 11], again[group != 11])


def examples(count: int, seed: int) -> Examples:
    """With a feature that tells nothing."""
    learnt, fraud = planted(count, seed)
    x = np.random.default_rng(seed + 100).random((count, 1)).astype(np.float32)
    return Examples(Part(x, fraud), learnt, np.arange(count), np.arange(count) % 3)


SETTINGS = [{"max_depth": 2, "rounds": 30, "eta": 0.3}]


def test_the_sequence_is_taken_where_it_helps() -> None:
    train, validation = examples(900, 6), examples(200, 7)
    found = stack(train, 1.0, validation, ["amount"], RECIPE, SETTINGS)
    trees, both, (least, most) = (found.chosen_by[one] for one in ("trees", "both", "gain_95"))
    assert both > trees + 0.3
    assert 0.2 < least < both - trees < most
    better = found.better
    assert better.names == ["amount", SEQUENCE]
    assert better.train.x_NF.shape == (900, 2)
    assert np.array_equal(
        better.validation.x_NF[:, 1], in_parts(better.sequence, validation.tokens)
    )
    held_out = out_of_fold(train.tokens, train.part.fraud_N, train.group_N, RECIPE)
    assert np.array_equal(better.train.x_NF[:, 1], held_out)


def test_the_sequence_is_left_where_it_does_not_help() -> None:
    train, validation = (
        one._replace(part=one.part._replace(x_NF=one.part.fraud_N[:, None].astype(np.float32)))
        for one in (examples(100, 6), examples(60, 7))
    )
    recipe = replace(RECIPE, epochs=1)
    better, chosen_by = stack(train, 1.0, validation, ["amount"], recipe, SETTINGS)
    assert chosen_by["trees"] == 1.0
    assert (better.names, better.sequence) == (["amount"], None)


def test_a_gain_of_one_user_is_no_gain() -> None:
    """Half of the frauds are one user's: without that user both are equal."""
    fraud = np.arange(200) < 20
    user = np.where(np.arange(200) < 10, 1_000, np.arange(200))
    trees = np.where(fraud, 1.0, 0.0)
    trees[:10] = -1.0
    both = np.where(fraud, 1.0, 0.0)
    _, least, most = Bootstrap(user).average_precision(both, trees, fraud)
    assert least == 0.0 < 0.3 < most
    _, least, _ = Bootstrap(np.arange(200)).average_precision(both, trees, fraud)
    assert least > 0.1


@pytest.fixture(scope="module")
def model() -> EventModel:
    """Trees that go by the sequence model alone."""
    names = [*NAMES, SEQUENCE]
    random = np.random.default_rng(1)
    x = np.zeros((400, len(names)), np.float32)
    x[:, -1] = random.normal(0, 1, 400)
    data = xgb.DMatrix(x, x[:, -1], feature_names=names)
    booster = xgb.train({"objective": "reg:squarederror", "nthread": 1}, data, 40)
    usual = {"any": [0.0] * (len(names) - 1) + [-3.0]}
    return EventModel(
        "sequences", names, 7.0, booster, Calibration(1.0, 0.0), usual, {}, sequence=new_net()
    )


def test_a_saved_model_scores_the_same(model: EventModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = EventModel.load(tmp_path, device="cpu")
    rows = rows_of(stream(8), [100, 120, 121])
    assert np.array_equal(again.score(again.columns(rows)), model.score(model.columns(rows)))
    assert again.version == model.version
    assert again.version != replace(model, sequence=new_net(seed=1)).version
    assert again.sequence.shape == model.sequence.shape


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("other", "not the file that its card describes"),
        ("missing", "No such file"),
        ("shape", "size mismatch"),
        ("none", f"wants feature {SEQUENCE}"),
    ],
)
def test_a_folder_that_does_not_fit(
    model: EventModel, tmp_path: Path, broken: str, message: str
) -> None:
    model.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    if broken == "other":
        (tmp_path / WEIGHTS).write_bytes(new_net(seed=2).weights)
    elif broken == "missing":
        (tmp_path / WEIGHTS).unlink()
    elif broken == "shape":
        card["sequence"]["shape"]["dim"] = 8
    else:
        del card["sequence"]
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=message):
        EventModel.load(tmp_path)


def test_the_lane_scores_by_the_sequence(model: EventModel) -> None:
    arrivals, lane = stream(9), Lane(model, LIKELY)
    rows = [row for row, one in enumerate(arrivals) if isinstance(one, Event)]
    for start in range(0, len(rows), 50):
        lane.score(arrivals, rows[start : start + 50])
    expected = decide(arrivals, [LIKELY], model, keep=128)
    assert len({decision.score for decision in expected.values()}) > 5
    assert_decided(lane.store, expected)


def test_the_reason_names_the_event_that_counted_most(model: EventModel) -> None:
    arrivals = stream(10)
    wanted = [row for row, one in enumerate(arrivals) if isinstance(one, Event)][100:]
    rows = rows_of(arrivals, wanted)
    columns = model.columns(rows)
    x = model.matrix(columns)
    [flagged, *_] = np.argsort(-model.score(columns), kind="stable")
    reasons = explain(model, rows, x, np.array([flagged]))[0]
    [told] = [reason for reason in reasons if reason.code != EARLIER_EVENT]
    assert told.code == "SEQUENCE"
    assert told.value == pytest.approx(columns[SEQUENCE][flagged], rel=1e-5)
    assert told.sentence.startswith("order and timing of this user's events: the last ")
    without = {}
    lists, own = rows.of_user, wanted[flagged]
    for place in range(lists.starts[flagged], lists.starts[flagged + 1] - 1):
        if (
            lists.letter[place] >= ord("a")
            and lists.event[place] != lists.event[lists.starts[flagged + 1] - 1]
        ):
            tried = rows.without(np.array([flagged]), lists.event[[place]])
            without[int(lists.time_ms[place])] = float(model.sequence.log_odds(tried)[0])
    newest = dict(list(without.items())[-16:])
    named = min(newest, key=newest.get)
    stamp = np.datetime64(named // 1_000, "s").item()
    assert "most of all the " in told.sentence
    assert f"at {stamp:%Y-%m-%d %H:%M:%S} UTC" in told.sentence
    assert isinstance(arrivals[own], Event)


def test_a_first_event_has_no_order(model: EventModel) -> None:
    arrivals = [Event("a", "u", "purchase", START_MS, 20.0, "d")]
    rows = rows_of(arrivals, [0])
    x = model.matrix(model.columns(rows))
    found = explain(model, rows, x, np.array([0]))[0]
    words = "order and timing of this user's events: no earlier event of this user is known"
    assert [reason.sentence for reason in found] == [words]


def test_learning_leaves_the_features_as_they_are() -> None:
    train = examples(90, 6)
    part, net = learn(train, replace(RECIPE, epochs=1))
    assert np.array_equal(part.x_NF[:, :1], train.part.x_NF)
    assert part.x_NF.dtype == np.float32
    assert net.shape == RECIPE.shape
