"""The protocol, the measures and the models of models.next_item."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from models.next_item import data as sequences
from models.next_item.items import BACKWARDS, PER_STEP, Counts, Neighbours, Settings
from models.next_item.model import Model, load, network_of, save
from models.next_item.network import NextItem, pack, sampled_softmax
from models.next_item.train import Recipe, evaluate, train_network

SMALL = {"dim": 16, "layers": 1, "heads": 2, "max_len": 8, "dropout": 0.2, "temperature": 0.1}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sequences.txt"
    file.write_text(text)
    return file


@pytest.fixture
def three(tmp_path: Path) -> sequences.Sequences:
    return sequences.read_s3rec(written(tmp_path, "u1 a b c d\nu2 b\n\nu3 c a b\n"))


def cycles(users: int = 300, items: int = 40, length: int = 9) -> str:
    """Each user goes on from some item to the next one, now and then to another."""
    random = np.random.default_rng(3)
    lines = []
    for user in range(users):
        walk = (random.integers(items) + np.arange(length)) % items
        noise = random.random(length) < 0.1
        walk[noise] = random.integers(0, items, noise.sum())
        lines.append(" ".join([f"u{user}", *(f"i{item}" for item in dict.fromkeys(walk))]))
    return "\n".join(lines)


def test_the_last_is_the_test_and_the_one_before_it_validation(three) -> None:
    def named(codes) -> list[str]:
        return [three.items[code] for code in codes]

    assert [named(history) for history in sequences.training(three)] == [["a", "b"]]
    validation, test = (sequences.held_out(three, part) for part in ("validation", "test"))
    assert named(validation.target_B) == ["c", "a"]
    assert [named(history) for history in validation.histories] == [["a", "b"], ["c"]]
    assert named(test.target_B) == ["d", "b"]
    assert [named(history) for history in test.histories] == [["a", "b", "c"], ["c", "a"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 a b\nu2\n", "line 2: a user without items"),
        ("u1 a b\nu1 c\n", "line 2: user u1 comes twice"),
        ("\n", "no users"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequences.read_s3rec(written(tmp_path, text))


def test_ranks_leave_out_what_the_user_has_had() -> None:
    part = sequences.Part([np.array([0]), np.array([2, 1]), np.array([3])], np.array([2, 3, 3]))
    scores = np.array([[9.0, 1, 5, 5], [1, 9, 8, 7], [1, 2, 3, 4]])

    found = sequences.ranks(part, lambda histories: scores[: len(histories)].copy())
    # Behind the one that ties; before all others that are left; had already, so never found.
    assert found.tolist() == [1, 0, 4]


def test_measures_are_those_of_the_protocol() -> None:
    found = sequences.measure(np.array([0, 4, 9, 10]))
    assert found.hr_at_5 == 0.5 and found.hr_at_10 == 0.75
    assert found.ndcg_at_5 == pytest.approx((1 + 1 / np.log2(6)) / 4)
    assert found.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(11)) / 4)


def test_neighbours_are_what_a_loop_finds() -> None:
    histories = [np.array([0, 1, 2]), np.array([2, 1]), np.array([3, 0])]
    settings = Settings(discount=0.6, shrink=2.0, decay=0.5)
    near = np.zeros((4, 4))
    for history in histories:
        for i, had in enumerate(history):
            for j, other in enumerate(history):
                if i != j:
                    apart = PER_STEP ** (abs(i - j) - 1)
                    near[had, other] += apart if j > i else BACKWARDS * apart
    popular = np.array([2, 2, 2, 1]) + 2.0
    near = near * popular[:, None] ** -0.6 * popular**-0.4
    expected = [near[2] + 0.5 * near[0], near[3]]
    found = Neighbours.of(Counts.of(histories, 4), settings).scores(
        [np.array([0, 2]), np.array([3])]
    )
    assert found == pytest.approx(np.array(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_packing_changes_no_state_and_nothing_later_enters(kind: str) -> None:
    torch.manual_seed(1)
    network = NextItem(kind, 20, **SMALL).eval()
    lengths = (1, 5, 2, 8, 5)
    random = np.random.default_rng(1)
    histories = [random.integers(0, 20, length) for length in lengths]
    packed = pack(histories)
    states = network.states(packed)
    for history, last in zip(histories, packed.last_B, strict=True):
        alone = network.states(pack([history]))
        first = last - len(history) + 1
        assert torch.allclose(states[first : first + len(history)], alone, atol=1e-5)
        begun = network.states(pack([history[:1]]))
        assert torch.allclose(alone[:1], begun, atol=1e-5)


def test_the_sampled_loss_is_the_whole_one_when_all_are_drawn() -> None:
    torch.manual_seed(1)
    network = NextItem("transformer", 20, **SMALL)
    state_SD, target_S = torch.randn(6, 16), torch.arange(6)
    whole = torch.nn.functional.cross_entropy(network.logits(state_SD), target_S)
    sampled = sampled_softmax(network, state_SD, target_S, torch.arange(20))
    assert sampled.item() == pytest.approx(whole.item(), rel=1e-5)


def test_a_network_learns_the_order_and_repeats_itself(tmp_path: Path) -> None:
    data = sequences.read_s3rec(written(tmp_path, cycles()))
    recipe = Recipe(
        **{"dim": 16, "layers": 1, "max_len": 8, "dropout": 0.1, "negatives": 32},
        **{"batch_users": 32, "learning_rate": 0.01, "warm_up_steps": 5, "epochs": 6},
    )
    first = train_network("transformer", data, recipe, lambda epoch: None)
    assert first.validation.hr_at_10 > 0.5
    again = train_network("transformer", data, recipe, lambda epoch: None)
    assert again.curve == first.curve


def command(*args: str) -> dict:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """The sequences, the model's folder and the report."""
    folder = tmp_path_factory.mktemp("nextitem")
    file = written(folder, cycles(60))
    out = folder / "model"
    options = ("--format", "s3rec", "--epochs", "2", "--out", str(out))
    return file, out, command("train", "next-item", *options, str(file))


def test_the_command_ends_with_its_figures(trained) -> None:
    report = trained[2]
    names = {"hr_at_5", "ndcg_at_5", "hr_at_10", "ndcg_at_10"}
    assert set(report["baselines"]) == {
        "popularity", "item_neighbours", "gru4rec", "transformer_alone",
    }  # fmt: skip
    for one in (report, *report["baselines"].values()):
        assert set(one["test"]) == set(one["validation"]) == names
    assert report["test"]["hr_at_10"] > report["baselines"]["popularity"]["test"]["hr_at_10"]


def test_a_loaded_model_is_the_saved_one(tmp_path: Path) -> None:
    data = sequences.read_s3rec(written(tmp_path, cycles(60)))
    histories, recipe = sequences.training(data), SMALL | {"seed": 1}
    torch.manual_seed(1)
    network = network_of("transformer", len(data.items), recipe).eval()
    neighbours = Neighbours.of(Counts.of(histories, len(data.items)), Settings(0.5, 3.0, 0.7))
    model = Model(data.items, network, neighbours, 8.0)
    card = save(tmp_path, model, recipe=recipe, data={}, metrics={})
    loaded, read = load(tmp_path)
    assert read == card and loaded.items == data.items
    assert np.array_equal(loaded.scores(histories), model.scores(histories))


def test_a_saved_model_ranks_as_it_did(trained) -> None:
    file, folder, report = trained
    measured = {part: report[part] for part in ("validation", "test")}
    again = command("evaluate", "next-item", "--checkpoint", str(folder), str(file))
    assert again["same_data"] and {part: again[part] for part in measured} == measured
    card = load(folder)[1]
    assert card.metrics == measured and card.version == again["version"]

    # The same sequences in another order: other codes of the items, the same ranks.
    turned = file.with_name("turned.txt")
    turned.write_text("\n".join(reversed(file.read_text().splitlines())))
    again = command("evaluate", "next-item", "--checkpoint", str(folder), str(turned))
    assert not again["same_data"]
    assert again["test"] == pytest.approx(report["test"])


def test_a_folder_that_can_not_be_used_is_one_line(trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"card\.json is missing"):
        load(tmp_path)
    new = sequences.read_s3rec(written(tmp_path, "u1 i1 i2 other\n"))
    with pytest.raises(InputError, match="1 items are not the model's, other among them"):
        evaluate(trained[1], new)
    folder = shutil.copytree(trained[1], tmp_path / "model")
    (folder / "items.json").write_text("[]")
    with pytest.raises(InputError, match=r"items\.json: not the file that card\.json describes"):
        load(folder)
