"""The alarms that compare with a run's beginning: what went under is named, what only looks like it is not."""

import json
from collections.abc import Iterable

import numpy as np
import pytest
from composing import settings

from recipe.egrsd.watch.alarms import Alarms
from recipe.egrsd.watch.metrics import METRICS
from recipe.egrsd.watch.thresholds import ALARM_STEPS, ALARMS

RIGHT, SURPRISE, LENGTH = "egrsd/correct_frac", "egrsd/student_surprise_mean", "response_length/mean"
ROLLOUTS = 32  # of a step: the binomial error of a half is .09
EGRSD = settings()


def spoken(metric: str, values: Iterable[float], alarms: Alarms | None = None) -> dict[int, str]:
    """Sentence of each step that has one."""
    alarms = alarms or Alarms(EGRSD)
    said = {step: alarms.check({metric: value}) for step, value in enumerate(values, 1)}
    return {step: sentence for step, sentences in said.items() for sentence in sentences}


# ---------------------------------------------------------------- accuracy

UNDONE = [0.28, 0.12, 0.03, 0.06, 0.12, 0.19, 0.06]  # a pretrained model at lr 1e-4


def test_a_run_that_is_undone_in_its_first_steps_is_seen():
    """By step 6: means .14, .12, .12, .10 from step 3 on, and half of the first step's .28. Surprise rose from .07 to
    .37 nat at step 5, where three times .07 is .21; responses lost half of their tokens."""
    ((step, sentence),) = spoken(RIGHT, UNDONE).items()
    assert step == 6
    assert "accuracy collapse: egrsd/correct_frac, mean of 5 steps = 0.104, at most 0.14" in sentence
    assert "(0.5 times the start, 0.28, and 0.1 from it), for 3 steps. " in sentence
    explosion = spoken(SURPRISE, (0.07, 0.11, 0.22, 0.30, 0.37))
    assert explosion.keys() == {5} and "= 0.37, at least 0.21 (3 times the start, 0.07," in explosion[5]
    collapse = spoken(LENGTH, (50.0, 31.0, 24.0, 22.0, 25.0))
    assert collapse.keys() == {5} and "= 25, at most 25 (0.5 times the start, 50), for 3 steps" in collapse[5]


@pytest.mark.parametrize(
    ("right", "seen_at"),
    [
        ([0.54, 0.4, 0.2, 0.1, 0.06, 0.03, 0.03], 7),
        ([0.31] * 8 + [0.2, *[0.14] * 6], 15),  # as it would have gone on: stopped after step 11
        ([0.3] * 10 + [0.6] * 20 + [0.2] * 7, 37),  # it had learned
    ],
)
def test_a_fall_is_seen_whenever_it_comes(right, seen_at):
    assert spoken(RIGHT, right).keys() == {seen_at}


@pytest.mark.parametrize(
    "right",
    [
        [0.38, 0.28, 0.31, 0.19, 0.31, 0.22, 0.38, 0.28, 0.31, 0.41, 0.19, 0.16, 0.12],
        [0.28, 0.25, 0.44, 0.41, 0.31, 0.19, 0.25, 0.22, 0.38],
        [0.31, 0.06, 0.06, 0.31, 0.31, 0.31],  # two steps by chance
        [0.06, *[0.01] * 20],  # there is nothing to lose
        [0.1, *[0.9] * 20],
    ],
)
def test_what_chance_does_is_not_spoken_of(right):
    assert spoken(RIGHT, right) == {}


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3])
def test_a_model_that_stays_as_it_is_raises_it_in_one_run_of_fifty_at_most(share):
    """100 steps of 32 responses, each right by chance alone."""
    runs = np.random.default_rng(0).binomial(ROLLOUTS, share, size=(500, 100)) / ROLLOUTS
    raised = sum(bool(spoken(RIGHT, run)) for run in runs.tolist())
    print(f"{share:.0%} right: an alarm in {raised} of {len(runs)} runs")
    assert raised / len(runs) <= 0.02


@pytest.mark.parametrize("stopped", [1, 4, 8, 30])
def test_a_resumed_run_compares_as_it_would_have(stopped):
    right = [0.4] * 10 + [0.1] * 40
    before, resumed = Alarms(EGRSD), Alarms(EGRSD)
    for value in right[:stopped]:
        before.check({RIGHT: value})
    resumed.load_state_dict(json.loads(json.dumps(before.state_dict())))
    whole = spoken(RIGHT, right)
    if stopped < min(whole):
        assert [step + stopped for step in spoken(RIGHT, right[stopped:], resumed)] == list(whole)
    else:
        assert spoken(RIGHT, right[stopped:], resumed), "its log is another one"


# ---------------------------------------------------------------- surprise and length


@pytest.mark.parametrize("surprise", [[0.005, 0.012, 0.016, 0.017, 0.018], [0.0] * 10, [0.02, *[0.11] * 10]])
def test_a_student_that_is_nearly_certain_is_not_turning_random(surprise):
    _, _, healthy, _ = METRICS[SURPRISE]
    assert healthy == 0.02 and spoken(SURPRISE, surprise) == {}


def test_a_student_that_was_nearly_certain_and_turns_random_is_seen():
    ((step, sentence),) = spoken(SURPRISE, [0.005, 0.2, 0.4, 0.8]).items()
    assert step == 4 and "at least 0.105 (3 times the start, 0.005, and 0.1 from it)" in sentence


@pytest.mark.parametrize(("cut", "own"), [(0.9, 200.0), (0.5, 100.0), (0.2, 20.0), (1.0, 5.0)])
def test_a_model_that_learns_to_stop_does_not_collapse(cut, own):
    """Of 1,000 tokens that a response may have: those that were cut become as short as the others are."""
    first = {LENGTH: cut * 1000 + (1 - cut) * own, "response_length/max": 1000.0, "egrsd/truncated_frac": cut}
    later = {LENGTH: own, "response_length/max": own, "egrsd/truncated_frac": 0.0}
    alarms = Alarms(EGRSD)
    said = [sentence for metrics in [first] + [later] * 10 for sentence in alarms.check(metrics)]
    assert [sentence for sentence in said if "length collapse" in sentence] == []


def test_what_was_not_cut_can_still_collapse():
    """Half of the first step's responses were cut at 1,000 tokens, the others had 300: a mean of 650, 150 without."""
    first = {LENGTH: 650.0, "response_length/max": 1000.0, "egrsd/truncated_frac": 0.5}
    alarms = Alarms(EGRSD)
    said = [alarms.check(metrics) for metrics in [first] + [first | {LENGTH: 75.0}] * ALARM_STEPS]
    assert "length collapse: response_length/mean = 75, at most 75 (0.5 times the start, 150)" in str(said[-1])


def test_what_is_meant_to_shorten_may():
    assert spoken(LENGTH, [100.0, *[20.0] * 10], Alarms(settings("crisp"))) == {}
    assert spoken(LENGTH, [100.0, *[20.0] * 10], Alarms(settings("opsd")))


def test_only_a_start_has_what_belongs_to_one():
    for alarm in ALARMS.values():
        assert alarm.of_start or (alarm.margin, alarm.beside, alarm.mean_of) == (0, (), 1)
