"""The split, the metrics, the models and the commands of lab.next_item."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from typer.testing import CliRunner

from lab.__main__ import app
from lab.next_item import data as sequences
from lab.next_item.combination import (
    CANDIDATES,
    LOG_SCALE,
    PAIR_SCORES,
    SCORES,
    PairScores,
    fit_weights,
)
from lab.next_item.count_models import (
    BACKWARD_WEIGHT,
    DISTANCE_DECAY,
    CoOccurrenceCounts,
    ItemNeighbours,
    NeighbourSettings,
)
from lab.next_item.model import NextItemModel, build_network, load, save
from lab.next_item.network import NextItemNetwork, pack, sampled_softmax_loss
from lab.next_item.readers import read_s3rec
from lab.next_item.spectral_vectors import spectral_vectors
from lab.next_item.train import NextItemRecipe, evaluate, train_network
from liveprofile.errors import InputError

SMALL = {"dim": 16, "hidden": 8, "layers": 1, "max_len": 8, "dropout": 0.2, "temperature": 0.1}


def write_sequences(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sequences.txt"
    file.write_text(text)
    return file


@pytest.fixture
def three_users(tmp_path: Path) -> sequences.SequenceDataset:
    return read_s3rec(write_sequences(tmp_path, "u1 a b c d\nu2 b\n\nu3 c a b\n"))


def cycles(users: int = 300, items: int = 40, length: int = 9) -> str:
    """Each user takes consecutive items from a random start; a tenth of them is noise."""
    random = np.random.default_rng(3)
    lines = []
    for user in range(users):
        walk = (random.integers(items) + np.arange(length)) % items
        noise = random.random(length) < 0.1
        walk[noise] = random.integers(0, items, noise.sum())
        lines.append(" ".join([f"u{user}", *(f"i{item}" for item in dict.fromkeys(walk))]))
    return "\n".join(lines)


def test_last_item_is_test_target_and_second_last_is_validation_target(three_users) -> None:
    def names(codes) -> list[str]:
        return [three_users.items[code] for code in codes]

    assert [names(history) for history in sequences.training_histories(three_users)] == [["a", "b"]]
    validation, test = (
        sequences.held_out_items(three_users, split) for split in ("validation", "test")
    )
    assert names(validation.target_B) == ["c", "a"]
    assert [names(history) for history in validation.histories] == [["a", "b"], ["c"]]
    assert names(test.target_B) == ["d", "b"]
    assert [names(history) for history in test.histories] == [["a", "b", "c"], ["c", "a"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 a b\nu2\n", "line 2: user u2 has no items"),
        ("u1 a b\nu1 c\n", "line 2: user u1 is repeated"),
        ("\n", "the file has no users"),
    ],
)
def test_invalid_sequence_file_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_s3rec(write_sequences(tmp_path, text))


def test_sample_keeps_each_history_with_its_target() -> None:
    targets = np.arange(50)
    held_out = sequences.HeldOutItems([np.array([target, 7]) for target in targets], targets)
    chosen = sequences.sample(held_out, 20, seed=1)
    assert len(np.unique(chosen.target_B)) == len(chosen.target_B) == 20
    assert [history[0] for history in chosen.histories] == chosen.target_B.tolist()
    assert sequences.sample(held_out, 50, seed=1) is held_out


def test_target_ranks_exclude_items_of_the_history() -> None:
    held_out = sequences.HeldOutItems(
        [np.array([0]), np.array([2, 1]), np.array([3])], np.array([2, 3, 3])
    )
    scores = np.array([[9.0, 1, 5, 5], [1, 9, 8, 7], [1, 2, 3, 4]])

    ranks = sequences.target_ranks(held_out, lambda histories: scores[: len(histories)].copy())
    # Below the one that ties; above all others that are left; in the history, so ranked last.
    assert ranks.tolist() == [1, 0, 4]


def test_ranking_metrics_follow_the_s3rec_protocol() -> None:
    metrics = sequences.ranking_metrics(np.array([0, 4, 9, 10]))
    assert metrics.hr_at_5 == 0.5 and metrics.hr_at_10 == 0.75
    assert metrics.ndcg_at_5 == pytest.approx((1 + 1 / np.log2(6)) / 4)
    assert metrics.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(11)) / 4)


def test_neighbour_scores_equal_a_plain_loop() -> None:
    histories = [np.array([0, 1, 2]), np.array([2, 1]), np.array([3, 0])]
    settings = NeighbourSettings(discount=0.6, shrink=2.0, decay=0.5)
    near = np.zeros((4, 4))
    for history in histories:
        for i, item in enumerate(history):
            for j, other in enumerate(history):
                if i != j:
                    weight = DISTANCE_DECAY ** (abs(i - j) - 1)
                    near[item, other] += weight if j > i else BACKWARD_WEIGHT * weight
    popularity = np.array([2, 2, 2, 1]) + 2.0
    near = near * popularity[:, None] ** -0.6 * popularity**-0.4
    expected = [near[2] + 0.5 * near[0], near[3]]
    counts = CoOccurrenceCounts.from_histories(histories, 4)
    scores = ItemNeighbours.from_counts(counts, settings).scores([np.array([0, 2]), np.array([3])])
    assert scores == pytest.approx(np.array(expected), rel=1e-5)


def test_pair_scores_equal_a_plain_loop() -> None:
    histories = [np.array([0, 1, 2, 3, 4]), np.array([2, 1, 0]), np.array([3, 0])]
    popularity = np.array([3, 2, 2, 2, 1])
    history = [3, 0, 4, 1]
    expected = {name: np.zeros(5) for name in PAIR_SCORES}
    for steps_back, item in enumerate(reversed(history)):
        lag, weight = [("last", 1.0), ("recent", 1.0), ("recent", 0.9), ("older", 1.0)][steps_back]
        for other in histories:
            for i, first in enumerate(other):
                for j, second in enumerate(other[i + 1 :], i + 1):
                    distance = "next" if j == i + 1 else "later"
                    count = weight * DISTANCE_DECAY ** (j - i - 1)
                    count /= np.sqrt(popularity[first] * popularity[second])
                    if first == item:
                        expected[f"after {distance}, {lag}"][second] += count
                    if second == item:
                        expected[f"before {distance}, {lag}"][first] += count
    pairs = PairScores.from_histories(histories, 5)
    scores = pairs.of([np.array(history)])
    for name, score in zip(PAIR_SCORES, scores, strict=True):
        assert score.toarray()[0] == pytest.approx(np.log1p(LOG_SCALE * expected[name]), rel=1e-5)

    # The combination is the sum of all scores, weighted in the order of SCORES.
    weights = np.arange(1.0, 1 + len(SCORES), dtype=np.float32)
    network_scores = np.array([[0.5, -1, 0, 2, 1]], np.float32)
    total = network_scores[0] + sum(
        w * np.log1p(LOG_SCALE * expected[name])
        for name, w in zip(PAIR_SCORES, weights[1:], strict=False)
    )
    total += weights[-2] * np.log1p(popularity) + weights[-1] * np.log1p([2, 0, 0, 0, 1])
    assert pairs.combine(weights, network_scores, scores)[0] == pytest.approx(total, rel=1e-5)


def test_pair_scores_read_the_last_fifty_items_only() -> None:
    pairs = PairScores.from_histories([np.arange(60)], 60)
    whole, last_fifty = (pairs.of([history]) for history in (np.arange(60), np.arange(10, 60)))
    for name, one, other in zip(PAIR_SCORES, whole, last_fifty, strict=True):
        assert np.array_equal(one.toarray(), other.toarray()), name


class FixedScores:
    """Every history gets the same scores."""

    def __init__(self, score_I: list[float]):
        self._score_I = np.array(score_I, np.float32)

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        return np.tile(self._score_I, (len(histories), 1))


def test_fitted_weights_prefer_the_direction_of_the_targets() -> None:
    forward = [np.array([first, first + 1]) for first in range(0, 20, 2)] * 3
    pairs = PairScores.from_histories(forward, 20)
    tasks = sequences.HeldOutItems(
        [np.array([first]) for first in range(0, 20, 2)], np.arange(1, 20, 2)
    )
    weights = dict(zip(SCORES, fit_weights(FixedScores([0.0] * 20), pairs, tasks), strict=True))
    assert weights["after next, last"] > 1.0
    assert weights["after next, last"] > 3 * abs(weights["before next, last"])


def test_network_alone_has_a_weight_if_no_target_is_a_candidate() -> None:
    items = 2 * CANDIDATES
    pairs = PairScores.from_histories([np.array([0, 1])], items)
    network = FixedScores(list(range(items)))
    tasks = sequences.HeldOutItems([np.array([0])], np.array([2]))
    assert fit_weights(network, pairs, tasks).tolist() == [1.0] + [0.0] * (len(SCORES) - 1)


def network_of(items: int) -> NextItemNetwork:
    """An untrained network whose GRU has an output, unlike at the start of a training."""
    torch.manual_seed(1)
    network = NextItemNetwork(items, **SMALL).eval()
    torch.nn.init.normal_(network.out.weight)
    return network


def test_states_depend_neither_on_packing_nor_on_later_items() -> None:
    network = network_of(20)
    lengths = (1, 5, 2, 8, 5)
    random = np.random.default_rng(1)
    histories = [random.integers(0, 20, length) for length in lengths]
    packed = pack(histories)
    states = network.states(packed)
    for history, last in zip(histories, packed.last_B, strict=True):
        alone = network.states(pack([history]))
        first = last - len(history) + 1
        assert torch.allclose(states[first : first + len(history)], alone, atol=1e-5)
        first_item_only = network.states(pack([history[:1]]))
        assert torch.allclose(alone[:1], first_item_only, atol=1e-5)


def test_untrained_network_scores_by_decayed_sum_of_the_given_vectors() -> None:
    torch.manual_seed(1)
    network = NextItemNetwork(4, **SMALL).eval()
    random_vector = network.table[4].detach().clone()
    vectors = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    vectors[3] = 0.0
    network.set_item_vectors(vectors)
    assert torch.equal(network.table[4], random_vector)

    unit = vectors[:3] / np.linalg.norm(vectors[:3], axis=1, keepdims=True)
    decay = 1 / (1 + np.exp(network.decay_rate.item()))  # exp(-softplus(rate))
    state = unit[2] + decay * unit[0] + decay**2 * unit[1]
    expected = unit @ state / np.linalg.norm(state) / SMALL["temperature"]
    scores = network.scores([np.array([1, 0, 2])])[0, :3]
    assert scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("items", "dim"), [(8, 10), (200, 20)])
def test_spectral_vectors_have_the_largest_singular_values(items: int, dim: int) -> None:
    near = np.random.default_rng(1).random((items, items), np.float32)
    near[[0, -1]] = near[:, [0, -1]] = 0.0
    vectors = spectral_vectors(scipy.sparse.csr_matrix(near), dim, seed=1)
    assert vectors.shape == (items, dim)
    assert not vectors[[0, -1]].any() and not vectors[:, items:].any()
    singular_values = np.linalg.svd((near + near.T) / 2)[1]
    assert np.linalg.norm(vectors[:, 0]) ** 2 == pytest.approx(singular_values[0], rel=1e-4)
    sizes = np.linalg.norm(vectors[:, : min(items, dim)], axis=0) ** 2
    assert sizes == pytest.approx(singular_values[: len(sizes)], rel=0.05, abs=1e-4)


def test_sampled_loss_over_all_items_equals_full_cross_entropy() -> None:
    network = network_of(20)
    state_SD, target_S = torch.randn(6, 16), torch.arange(6)
    full = torch.nn.functional.cross_entropy(network.logits(state_SD), target_S)
    sampled = sampled_softmax_loss(network, state_SD, target_S, torch.arange(20))
    assert sampled.item() == pytest.approx(full.item(), rel=1e-5)


def test_all_tensors_of_a_training_step_are_on_the_networks_device() -> None:
    """The meta device has shapes only, and refuses tensors of other devices as a GPU does."""
    network = network_of(20).to("meta").train()
    packed = pack([np.array([3, 1, 4]), np.array([5])])
    state_SD = network.states(packed)[network.on_device(packed.index_N)]
    target_S = network.on_device(np.array([1, 4, 2, 9]))
    loss = sampled_softmax_loss(network, state_SD, target_S, network.on_device(np.arange(6)))
    assert loss.device.type == "meta" and loss.shape == ()


def test_network_learns_item_order_and_training_is_repeatable(tmp_path: Path) -> None:
    data = read_s3rec(write_sequences(tmp_path, cycles()))
    recipe = NextItemRecipe(
        **{"dim": 16, "hidden": 16, "max_len": 8, "dropout": 0.1, "negatives": 32},
        **{"batch_users": 32, "learning_rate": 0.01, "warm_up_steps": 5, "epochs": 6},
    )
    first = train_network(data, recipe, lambda epoch: None)
    assert first.validation.hr_at_10 > 0.5
    second = train_network(data, recipe, lambda epoch: None)
    assert second.curve == first.curve


def run_command(*args: str) -> dict:
    """The JSON of the command's last line."""
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """The sequence file, the model checkpoint and the report of `train next-item`."""
    folder = tmp_path_factory.mktemp("nextitem")
    file = write_sequences(folder, cycles(60))
    out = folder / "model"
    options = ("--format", "s3rec", "--epochs", "2", "--out", str(out))
    return file, out, run_command("next-item", "train", *options, str(file))


def test_train_command_reports_model_and_baseline_metrics(trained) -> None:
    report = trained[2]
    names = {"hr_at_5", "ndcg_at_5", "hr_at_10", "ndcg_at_10"}
    assert set(report["baselines"]) == {"popularity", "item_neighbours", "network_alone"}
    for metrics in (report, *report["baselines"].values()):
        assert set(metrics["test"]) == set(metrics["validation"]) == names
    assert report["test"]["hr_at_10"] > report["baselines"]["popularity"]["test"]["hr_at_10"]


def test_loaded_model_scores_as_the_saved_one(tmp_path: Path) -> None:
    data = read_s3rec(write_sequences(tmp_path, cycles(60)))
    histories, recipe = sequences.training_histories(data), SMALL | {"seed": 1}
    torch.manual_seed(1)
    network = build_network(len(data.items), recipe).eval()
    pairs = PairScores.from_histories(histories, len(data.items))
    weights = np.linspace(0.1, 1.0, len(SCORES), dtype=np.float32)
    model = NextItemModel(data.items, network, pairs, weights)
    saved_card = save(tmp_path, model, recipe=recipe, data={}, metrics={})
    loaded, card = load(tmp_path)
    assert card == saved_card and loaded.items == data.items
    assert np.array_equal(loaded.scores(histories), model.scores(histories))


def test_evaluate_command_repeats_the_metrics_of_training(trained) -> None:
    file, folder, report = trained
    metrics = {split: report[split] for split in ("validation", "test")}
    evaluated = run_command("next-item", "evaluate", "--checkpoint", str(folder), str(file))
    assert evaluated["same_data"] and {split: evaluated[split] for split in metrics} == metrics
    card = load(folder)[1]
    assert card.metrics == metrics and card.version == evaluated["version"]

    # The same sequences in another order have other item codes and the same ranks.
    reordered = file.with_name("reordered.txt")
    reordered.write_text("\n".join(reversed(file.read_text().splitlines())))
    evaluated = run_command("next-item", "evaluate", "--checkpoint", str(folder), str(reordered))
    assert not evaluated["same_data"]
    assert evaluated["test"] == pytest.approx(report["test"])


def test_params_override_the_recipe_and_wrong_ones_are_refused(trained, tmp_path: Path) -> None:
    params = tmp_path / "params.toml"
    params.write_text("dim = 8\nmax_len = 20\ndropout = 0.1\n")
    options = ("--params", str(params), "--epochs", "1", "--device", "cpu")
    report = run_command("next-item", "train", *options, str(trained[0]))
    settings = {name: report["settings"][name] for name in ("dim", "max_len", "dropout", "epochs")}
    assert settings == {"dim": 8, "max_len": 20, "dropout": 0.1, "epochs": 1}
    params.write_text("size = 8\n")
    result = CliRunner().invoke(app, ["next-item", "train", *options, str(trained[0])])
    assert isinstance(result.exception, InputError) and "no 'size'" in str(result.exception)


def test_missing_unknown_or_changed_model_files_are_rejected(trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"card\.json is missing"):
        load(tmp_path)
    unknown_item = read_s3rec(write_sequences(tmp_path, "u1 i1 i2 other\n"))
    with pytest.raises(InputError, match="1 items are unknown to the model, for example other"):
        evaluate(trained[1], unknown_item)
    folder = shutil.copytree(trained[1], tmp_path / "model")
    (folder / "items.json").write_text("[]")
    with pytest.raises(InputError, match=r"items\.json: not the file that card\.json describes"):
        load(folder)


def test_model_card_of_an_earlier_format_is_rejected_by_its_format(trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained[1], tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    weights = card.pop("weights")
    earlier = card | {"format": 1, "weight": weights["network"], "decay": 0.9}
    (folder / "card.json").write_text(json.dumps(earlier))
    message = r"card\.json: format = 1, but this version reads 2; train the model again"
    with pytest.raises(InputError, match=message):
        load(folder)
