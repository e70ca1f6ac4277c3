"""Drift: what is counted, what is told from chance, and who says so, once."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from scipy.special import ndtr

from benchmarks.support.memory_drift_store import MemoryDriftStore
from liveprofile.config import load
from liveprofile.drift.alert import TYPE
from liveprofile.drift.comparison import (
    CHANCE,
    LEAST_EVENTS,
    OWN_CHANCE,
    judge,
    psi,
    psi_bound,
    psi_of,
    shift,
    shift_bound,
)
from liveprofile.drift.histograms import GRACE_MS, MOST_OF_USER, OPEN_HOURS, Histograms
from liveprofile.drift.reference import ALERT_RATE, FILE, SCORE, Reference, Series
from liveprofile.errors import InputError
from liveprofile.resources import product_path
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.tokens import FIELD, WINDOW
from models.fraud.model import EventModel
from models.fraud.training import drift_reference
from tests.reference.scoring import parts
from tests.support.paths import ROOT
from tests.unit.udfs.scoring.test_batch import Lane, purchases
from udfs.scoring.drift_monitor import RESEND_AFTER_MS, DriftMonitor, scope

SCHEMA = json.loads((ROOT / "schemas/drift-alert.schema.json").read_text("utf-8"))
NAMES = ["amount", "new_device", "seconds"]
START_MS = 19_700 * DAY_MS
ALERT_SCORE = 0.4


def events(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of NAMES, and scores."""
    x_NF = np.column_stack(
        [rng.lognormal(3, 1, count), rng.random(count) < 0.03, rng.exponential(900, count)]
    ).astype(np.float32)
    x_NF[rng.random(count) < 0.2, 2] = np.nan
    return x_NF, rng.beta(0.3, 5, count)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(1)
    x_NF, score_N = events(rng, 40_000)
    each_N = np.arange(40_000)
    return drift_reference.of(x_NF, NAMES, score_N, each_N // 400, each_N, ALERT_SCORE)


def series(reference: Reference, name: str) -> Series:
    return next(one for one in reference.series if one.name == name)


def test_bins_are_finer_in_the_tails_and_a_value_that_many_share_has_its_own(
    reference: Reference,
) -> None:
    amount = series(reference, "amount")
    below = np.cumsum(amount.share_B)[:-2]
    assert np.allclose(below, ndtr(np.arange(-3.5, 4.0, 0.5)), atol=0.001)
    assert amount.share_B[-1] < 1e-4
    rare = series(reference, "new_device")
    assert rare.edges == (0.0,)
    assert rare.bins(np.array([0, 1, np.nan])).tolist() == [0, 1, 2]
    assert series(reference, "seconds").share_B[-1] == pytest.approx(0.2, abs=0.01)
    each_N = np.arange(100)
    mostly_one = drift_reference.of(
        np.array([[0.0]] * 5 + [[1.0]] * 95, np.float32), ["a"], each_N * 0, each_N * 0, each_N, 0.5
    )
    assert mostly_one.series[0].edges == (0.0,)
    assert mostly_one.series[0].counts == (5, 95, 0)


@pytest.mark.parametrize(("share", "first"), [(0.6, 1), (0.4, 0)])
def test_a_0_is_nothing_where_most_have_more(share: float, first: int) -> None:
    rng, each_N = np.random.default_rng(12), np.arange(40_000)
    x_N1 = np.where(rng.random(40_000) < share, rng.lognormal(3, 1, 40_000), 0)[:, None]
    scores_N = rng.random(40_000)
    made = drift_reference.of(x_N1.astype(np.float32), ["a"], scores_N, each_N, each_N, 2.0)
    (found, _, _) = made.series
    assert found.edges[0] == 0
    assert len(found.edges) == 16
    assert found.ordered == slice(first, -1)
    assert found.score_K @ found.counts[found.ordered] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_constant_is_known_from_what_is_new(value: float) -> None:
    x_NF = np.full((1_000, 1), value, np.float32)
    scores_N, each_N = np.linspace(0, 1, 1_000), np.arange(1_000)
    made = drift_reference.of(x_NF, ["a"], scores_N, each_N * 0, each_N, 0.5)
    same, new = Histograms(made, ["a"]), Histograms(made, ["a"])
    for histograms, column in ((same, x_NF), (new, x_NF * 0 + 9), (new, np.zeros_like(x_NF) + 9)):
        histograms.add(column, scores_N, np.full(1_000, START_MS), each_N, range(1_000))
    assert not judge(made, same.changed()[START_MS]).drifted
    assert judge(made, new.changed()[START_MS]).reasons[0]["name"] == "a"


def test_the_alert_rate_counts_the_score_itself() -> None:
    made = drift_reference.of(
        np.zeros((4, 1), np.float32), ["a"], np.array([0.1, 0.4, 0.39, 0.9]), np.zeros(4),
        np.arange(4), 0.4,
    )  # fmt: skip
    assert series(made, ALERT_RATE).counts == (2, 2, 0)


def test_a_reference_comes_back_from_its_file(reference: Reference, tmp_path: Path) -> None:
    assert Reference.load(tmp_path) is None
    reference.save(tmp_path)
    again = Reference.load(tmp_path)
    assert (again, again.version) == (reference, reference.version)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(InputError, match="format 9, this version reads 2"):
        Reference.load(tmp_path)


def test_a_reference_of_the_first_format_is_left_alone(
    reference: Reference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference.save(tmp_path)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"format": 2', '"format": 1'))
    assert Reference.load(tmp_path) is None
    assert "make it again (liveprofile drift reference)" in caplog.text


@pytest.mark.parametrize("count", [LEAST_EVENTS, 100, 1_000])
def test_without_a_shift_the_psi_is_as_published(count: int) -> None:
    deciles = Series("a", tuple(range(9)), (4_000,) * 10 + (0,))
    rng = np.random.default_rng(2)
    drawn = rng.multinomial(count, deciles.share_B, 4_000)
    values = np.array([psi(one, deciles.share_B).sum() for one in drawn])
    # The last bin, of missing values, is empty in the reference: ten bins count.
    assert values.mean() == pytest.approx(9 / count, rel=0.12)
    assert (values > psi_bound(deciles, count)).mean() < 20 * CHANCE
    assert psi_bound(deciles, 1) == pytest.approx(33.72, abs=0.01)


@pytest.mark.parametrize("count", [LEAST_EVENTS, 100, 1_000])
def test_chance_alone_hardly_exceeds_a_bound(reference: Reference, count: int) -> None:
    amount = series(reference, "amount")
    drawn = np.random.default_rng(2).multinomial(count, amount.share_B, 20_000)
    psi_D = np.array([psi_of(amount, one) for one in drawn])
    square_D = np.array([shift(one, amount) ** 2 for one in drawn])
    assert (psi_D > psi_bound(amount, count)).mean() < 20 * CHANCE
    for chance in (CHANCE, OWN_CHANCE):
        found = (square_D / amount.shift_spread > shift_bound(amount, count, chance)).mean()
        assert found < 2 * chance + 2e-4


@pytest.mark.parametrize("factor", [1 / 2, 2, 3])
def test_the_shift_is_in_standard_deviations(reference: Reference, factor: float) -> None:
    """Of amounts whose logarithm is normal with a standard deviation of 1."""
    x_NF, score_N = events(np.random.default_rng(13), 40_000)
    found = counts(reference, (x_NF * [factor, 1, 1]).astype(np.float32), score_N)
    amount = reference.series[0]
    assert shift(found[0][: len(amount.counts)], amount) == pytest.approx(np.log(factor), abs=0.03)


def counts(reference: Reference, x_NF: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    histograms, rows = Histograms(reference, NAMES), range(len(score_N))
    histograms.add(x_NF, score_N, np.full(len(score_N), START_MS), rows, rows)
    return histograms.changed()[START_MS]


def test_equal_data_does_not_drift(reference: Reference) -> None:
    rng = np.random.default_rng(3)
    for count in (60, 300, 3_000) * 30:
        verdict = judge(reference, counts(reference, *events(rng, count)))
        assert not verdict.drifted
        assert verdict.events == count


def test_one_customer_makes_no_drift(reference: Reference) -> None:
    """31 dear gifts among the hour's 121 events; of 31 customers they would be drift."""
    x_NF, score_N = events(np.random.default_rng(16), 121)
    x_NF[:31] = [300, 1, 5]
    for user_N, drifted in (([0] * 31 + [*range(1, 91)], False), (range(121), True)):
        histograms = Histograms(reference, NAMES)
        histograms.add(x_NF, score_N, np.full(121, START_MS), user_N, range(121))
        verdict = judge(reference, histograms.changed()[START_MS])
        assert ("amount" in verdict.drifted, verdict.above(2.0)) == (drifted, drifted)


def test_a_quiet_week_raises_nothing(reference: Reference) -> None:
    workers = Workers(reference)
    assert [alert for _ in range(7 * 24) for alert in workers.step(count=45)] == []


def test_an_hour_of_few_events_shows_doubled_amounts(reference: Reference) -> None:
    workers = Workers(reference)
    (alert,) = workers.step(2.0, count=45)
    assert alert["data"]["reasons"][0]["shift"] == pytest.approx(np.log(2), abs=0.3)
    jsonschema.Draft202012Validator(SCHEMA).validate(alert)


def test_few_events_are_not_judged(reference: Reference) -> None:
    x_NF, score_N = events(np.random.default_rng(3), LEAST_EVENTS - 1)
    assert judge(reference, counts(reference, x_NF * 100, score_N)) is None


@pytest.mark.parametrize(
    ("shift", "code", "name"),
    [
        (lambda x, s: (x * [3, 1, 1], s), "DRIFT_FEATURE", "amount"),
        (lambda x, s: (x * [np.nan, 1, 1], s), "DRIFT_MISSING", "amount"),
        (lambda x, s: (np.nan_to_num(x, nan=1.0), s), "DRIFT_MISSING", "seconds"),
        (lambda x, s: (np.maximum(x, [0, 1, 0]), s), "DRIFT_FEATURE", "new_device"),
        (lambda x, s: (x, s / 2 + 0.2), "DRIFT_SCORE", SCORE),
        (
            lambda x, s: (x, np.where(np.arange(len(s)) % 20, s, 0.9)),
            "DRIFT_ALERT_RATE",
            ALERT_RATE,
        ),
    ],
    ids=["values", "missing", "no longer missing", "0/1", "score", "alert rate"],
)
def test_a_shift_is_seen_and_told(reference: Reference, shift, code: str, name: str) -> None:
    x_NF, score_N = shift(*events(np.random.default_rng(4), 20_000))
    verdict = judge(reference, counts(reference, x_NF.astype(np.float32), score_N))
    first = verdict.reasons[0]
    assert (first["code"], first["name"]) == (code, name)
    assert abs(first["value"] - first["usual"]) > 0.02
    assert f"{first['value']:.1%}" in first["sentence"]


def test_days_have_a_spread_of_their_own() -> None:
    """Every other day all values are twice the usual: no hour tells that it isn't by chance what
    its day is, and each day does."""
    rng = np.random.default_rng(6)
    x_NF, score_N = events(rng, 48_000)
    hour_N = np.arange(48_000) // 100
    plain = drift_reference.of(x_NF, NAMES, score_N, hour_N, np.arange(48_000), ALERT_SCORE)
    x_NF[:, NAMES.index("amount")] *= 1 + (hour_N // 24 % 2)
    waves = drift_reference.of(x_NF, NAMES, score_N, hour_N, np.arange(48_000), ALERT_SCORE)
    of_hours, of_days = (series(one, "amount") for one in (waves, waves.of_days))
    assert of_days.spread == of_hours.day_spread > 5 * of_hours.spread
    assert of_days.shift_spread == of_hours.day_shift_spread > 5 * of_hours.shift_spread
    assert series(plain, "amount").day_spread < 1.5
    # A day like the others is no drift by days; by what an hour is judged it would be.
    day = x_NF[24 * 100 : 48 * 100], score_N[24 * 100 : 48 * 100]
    assert "amount" in judge(waves, counts(waves, *day)).drifted
    assert "amount" not in judge(waves.of_days, counts(waves, *day)).drifted


def test_hours_that_resemble_themselves_widen_the_bound() -> None:
    """Each hour's events are four times the same: a shift is believed four times later."""
    rng = np.random.default_rng(5)
    x_NF, score_N = events(rng, 20_000)
    hour_N = np.arange(20_000) // 100
    each_N = np.arange(80_000)
    alone = drift_reference.of(x_NF, NAMES, score_N, hour_N, each_N[:20_000], ALERT_SCORE)
    copies = drift_reference.of(
        np.repeat(x_NF, 4, axis=0), NAMES, np.repeat(score_N, 4), np.repeat(hour_N, 4), each_N,
        ALERT_SCORE,
    )  # fmt: skip
    for name in ("amount", "seconds", SCORE):
        assert series(alone, name).shift_spread == pytest.approx(1, abs=0.25)
        assert series(copies, name).shift_spread == pytest.approx(4, rel=0.25)
    for name in ("amount", "seconds", SCORE, ALERT_RATE):
        assert series(alone, name).spread == pytest.approx(1, abs=0.25)
        assert series(copies, name).spread == pytest.approx(4, rel=0.25)


def test_of_each_user_the_first_events_of_an_hour_count(reference: Reference) -> None:
    """However they are spread over batches, and each hour anew."""
    histograms = Histograms(reference, NAMES)
    x_NF, score_N = events(np.random.default_rng(14), 90)
    hour_N = START_MS + np.arange(90) % 2 * HOUR_MS
    user_N = ["heavy"] * 60 + [f"u{row}" for row in range(30)]
    for rows in (range(7), range(7, 50), range(50, 90)):
        histograms.add(x_NF, score_N, hour_N, user_N, rows)
        histograms.changed()
    for hour in (0, 1):
        rows = [*range(hour, 2 * MOST_OF_USER, 2), *range(60 + hour, 90, 2)]
        alone = Histograms(reference, NAMES)
        alone.add(x_NF, score_N, hour_N, range(90), rows)
        (expected,) = alone.changed().values()
        assert (histograms._totals[START_MS + hour * HOUR_MS] == expected).all()


def test_the_reference_counts_as_the_job_does() -> None:
    x_NF, score_N = events(np.random.default_rng(15), 400)
    user_N, hour_N = np.arange(400) % 7, np.arange(400) // 100
    made = drift_reference.of(x_NF, NAMES, score_N, hour_N, user_N, ALERT_SCORE)
    histograms = Histograms(made, NAMES)
    histograms.add(x_NF, score_N, START_MS + hour_N * HOUR_MS, user_N, range(400))
    found = sum(histograms.changed().values())
    assert made.events == 4 * 7 * MOST_OF_USER
    for series, counts_W in zip(made.series, found, strict=True):
        assert tuple(counts_W[: len(series.counts)]) == series.counts


def test_histograms_forget_hours_and_never_shrink_one(reference: Reference) -> None:
    histograms = Histograms(reference, NAMES)
    rng = np.random.default_rng(6)
    for hour in range(20):
        x_NF, score_N = events(rng, 10)
        histograms.add(x_NF, score_N, np.full(10, START_MS + hour * HOUR_MS), range(10), range(10))
        found = histograms.changed()
        assert found[START_MS + hour * HOUR_MS][-1].sum() == 10
        assert len(histograms._totals) <= OPEN_HOURS + 1
    late = START_MS + (19 - OPEN_HOURS) * HOUR_MS
    for at_ms, seen in ((late, {late: 20}), (late - 1, {})):
        x_NF, score_N = events(rng, 10)
        histograms.add(x_NF, score_N, np.full(10, at_ms), range(10, 20), range(10))
        found = histograms.changed()
        assert {hour: counts_SW[-1].sum() for hour, counts_SW in found.items()} == seen


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


class Workers:
    """Some that share a store; each step is an hour of events, in turn, and a check of all."""

    def __init__(self, reference: Reference, count: int = 2, after_days: float = 0.0):
        self.reference, self.store, self.clock = reference, MemoryDriftStore(), Clock()
        self.after_days, self.hour = after_days, 0
        self.monitors = [self.monitor() for _ in range(count)]
        self._rng = np.random.default_rng(7)
        self.step()  # the hour that the job begins in is not decided

    def monitor(self) -> DriftMonitor:
        return DriftMonitor(self.reference, "m-1", NAMES, self.store, self.after_days, self.clock)

    def step(self, factor: float = 1.0, count: int = 1_000) -> list[dict]:
        """The alerts of the checks after one more hour."""
        start_ms, found = START_MS + self.hour * HOUR_MS, []
        self.hour += 1
        for at_ms, of_count in ((start_ms, count), (start_ms + HOUR_MS + GRACE_MS, 1)):
            for monitor in self.monitors:
                x_NF, score_N = events(self._rng, of_count)
                if at_ms == start_ms:
                    x_NF[:, 0] *= factor
                rows = range(of_count)
                found += monitor.observe(x_NF, score_N, np.full(of_count, at_ms), rows, rows)
                self.clock.now_s += 31
        return [json.loads(alert) for alert in found]

    def state(self, kind: str = "hour"):
        return self.store.state(scope(self.reference, kind))


def test_drift_is_told_once_when_it_starts_and_once_when_it_ends(reference: Reference) -> None:
    workers = Workers(reference)
    told = {hour: workers.step(5.0 if 4 <= hour < 7 else 1.0) for hour in range(12)}
    by_hour = {
        hour: [alert["data"]["state"] for alert in alerts if alert["data"]["period"] == "hour"]
        for hour, alerts in told.items()
    }
    assert {hour: states for hour, states in by_hour.items() if states} == {
        4: ["started"], 8: ["ended"]
    }  # fmt: skip
    started, ended = (told[hour][0] for hour in (4, 8))
    for alert in (started, ended):
        jsonschema.Draft202012Validator(SCHEMA).validate(alert)
        assert (alert["type"], alert["subject"]) == (TYPE, "m-1")
    assert started["id"] != ended["id"]
    assert started["data"]["events"] >= 2_000  # of both workers
    assert started["data"]["reasons"][0]["name"] == "amount"
    assert started["data"]["since"] == ended["data"]["since"] == started["data"]["period_start"]
    assert ended["data"]["reasons"] == []


def test_hours_of_few_events_change_nothing(reference: Reference) -> None:
    workers = Workers(reference)
    assert workers.step(5.0)
    before = workers.state()
    for _ in range(4):
        assert workers.step(1.0, count=10) == []
    assert workers.state()._replace(sent=before.sent) == before


def test_a_day_is_decided_by_all_its_hours(reference: Reference) -> None:
    workers = Workers(reference)
    alerts = [alert for _ in range(48) for alert in workers.step(2.0, count=100)]
    days = [alert["data"] for alert in alerts if alert["data"]["period"] == "day"]
    assert [day["state"] for day in days] == ["started"]
    assert days[0]["events"] >= 24 * 200


def test_nothing_is_decided_of_a_young_shop(reference: Reference) -> None:
    workers = Workers(reference, after_days=0.25)
    told = [bool(workers.step(5.0)) for _ in range(9)]
    assert told == [False] * 6 + [True] + [False] * 2


def test_a_worker_that_starts_again_adds_to_what_it_counted(reference: Reference) -> None:
    workers = Workers(reference, count=1)
    rng, start_ms = np.random.default_rng(8), START_MS + DAY_MS
    for _ in range(2):
        x_NF, score_N = events(rng, 500)
        workers.clock.now_s += 6
        workers.monitors[0].observe(x_NF, score_N, np.full(500, start_ms), range(500), range(500))
        workers.monitors = [workers.monitor()]
    totals = workers.store.totals(reference.version, start_ms, start_ms + HOUR_MS)
    assert totals.reshape(len(reference.series), -1)[-1].sum() == 1_000


def test_an_alert_whose_sender_died_is_sent_by_another(reference: Reference) -> None:
    workers = Workers(reference)
    (alert,) = workers.step(5.0)
    assert not workers.state().sent
    workers.monitors = [workers.monitor()]
    workers.clock.now_s += RESEND_AFTER_MS / 1_000
    told = [one for _ in range(4) for one in workers.step(5.0)]
    assert told == [alert]
    assert workers.state().sent


def test_an_alert_that_was_sent_is_not_sent_again(reference: Reference) -> None:
    workers = Workers(reference)
    assert workers.step(5.0)
    assert [workers.step(5.0) for _ in range(10)] == [[]] * 10
    assert workers.state().sent


def test_of_two_that_decide_at_once_one_does(reference: Reference) -> None:
    store = MemoryDriftStore()
    workers = Workers(reference)
    workers.step(5.0)
    (decision,) = workers.store.decisions(scope(reference, "hour"), 5)
    state = workers.state()
    before = store.state("s")
    assert store.decide("s", before, state, decision)
    assert not store.decide("s", before, state, decision)


class Telling:
    """In place of a monitor."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[str], list[int]]] = []

    def observe(self, x_nF, score_n, event_ms_n, user_n, rows) -> list[str]:
        self.seen.append((x_nF.shape[1], list(user_n), list(rows)))
        return ['{"drift": 1}']


def test_the_event_lane_hands_over_what_the_monitor_says() -> None:
    model = EventModel.load(product_path(load().scoring.checkpoint))
    lane = Lane(model)
    lane._scorer._drift = told = Telling()
    arrivals = purchases(3)
    texts = [parts(arrivals, row) for row in (0, 1, 1, 2)]
    again = parts([*arrivals, arrivals[0]], 3)
    sent = lane._scorer.score(["u"] * 5, [*texts, again])
    assert told.seen == [(len(model.names), ["u"] * 5, [0, 1, 2, 3])]
    message = FIELD.join(("risk-alerts", model.version, *[""] * 5)) + WINDOW + '{"drift": 1}'
    assert [message in of_row for of_row in sent] == [False] * 3 + [True, False]


def test_a_model_without_a_reference_is_not_watched(caplog: pytest.LogCaptureFixture) -> None:
    model = replace(EventModel.load(product_path(load().scoring.checkpoint)), reference=None)
    with caplog.at_level(logging.INFO):
        lane = Lane(model)
    assert f"no drift is watched: model {model.version} has no reference.json" in caplog.text
    assert lane.score(purchases(2), range(2)) is not None


def test_a_reference_of_another_model_is_refused(reference: Reference, tmp_path: Path) -> None:
    model = EventModel.load(product_path(load().scoring.checkpoint))
    replace(model, reference=reference).save(tmp_path)
    with pytest.raises(InputError, match="its reference watches new_device"):
        EventModel.load(tmp_path)


def test_the_schema_is_one_and_tells_states_apart() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    (example,) = SCHEMA["examples"]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(example)
    nothing = example | {"data": example["data"] | {"reasons": []}}
    assert not validator.is_valid(nothing)
    ended = nothing["data"] | {"state": "ended", "reason": "MODEL_DRIFT_ENDED"}
    assert validator.is_valid(nothing | {"data": ended})
    assert not validator.is_valid(example | {"type": "liveprofile.risk.flag"})


def test_a_shift_that_is_not_far_off_is_believed_in_its_second_hour(reference: Reference) -> None:
    workers = Workers(reference)
    told = [workers.step(factor, count=2_000) for factor in (1.45, 1, 1, 1.45, 1.45)]
    hours = [[alert["data"] for alert in of if alert["data"]["period"] == "hour"] for of in told]
    assert [len(of) for of in hours] == [0, 0, 0, 0, 1]
    assert hours[4][0]["since"] < hours[4][0]["period_start"]


def test_frauds_that_the_model_sees_are_no_drift_of_its_inputs(reference: Reference) -> None:
    rng = np.random.default_rng(9)
    x_NF, score_N = events(rng, 2_000)
    x_NF[:600], score_N[:600] = [900, 1, 1], 0.95
    verdict = judge(reference, counts(reference, x_NF, score_N))
    assert verdict.drifted == {ALERT_RATE}
    score_N[:600] = 0.01
    assert "amount" in judge(reference, counts(reference, x_NF, score_N)).drifted
