"""Every alarm speaks at its threshold, once, with numbers and advice; not just below it, and not about what is
switched off."""

import json
import math

import pytest
import torch
from composing import PRESETS, settings

from recipe.egrsd.watch import metrics
from recipe.egrsd.watch.alarms import Alarms, switched_off
from recipe.egrsd.watch.thresholds import ALARM_STEPS, ALARMS, Alarm

GROUPS = {"advantage": "grpo"}  # a key with which every alarm is on
START = 2.0  # of a metric that is compared with its own beginning
OF_ONE_STEP = [name for name, alarm in ALARMS.items() if alarm.mean_of == 1]  # means: test_collapses_on_cpu.py


def step(alarm: Alarm, value: float) -> dict[str, float]:
    """Metrics of a step whose watched sum is the value."""
    return {metric: value / len(alarm.metrics) for metric in alarm.metrics} | {"critic/score/mean": 0.0}


def series(name: str, value: float, *, steps: int, alarms: Alarms | None = None) -> list[list[str]]:
    """What is said in each of the steps with that value, after the first one where the alarm compares with it."""
    alarms, alarm = alarms or Alarms(settings(**GROUPS)), ALARMS[name]
    if alarm.of_start:
        assert alarms.check(step(alarm, START)) == []
    return [alarms.check(step(alarm, value)) for _ in range(steps)]


def at(name: str) -> float:
    return ALARMS[name].threshold * (START if ALARMS[name].of_start else 1.0)


def healthy(name: str) -> float:
    return math.nextafter(at(name), -math.inf if ALARMS[name].rises else math.inf)


@pytest.mark.parametrize("name", OF_ONE_STEP)
def test_it_speaks_at_its_threshold_once(name):
    *before, spoken, after, later = series(name, at(name), steps=ALARM_STEPS + 2)
    assert before == [[]] * (ALARM_STEPS - 1) and after == later == []
    (sentence,) = spoken
    assert sentence.startswith(f"EGRSD alarm, {name}: ")
    assert f"= {at(name):.4g}, " in sentence and ALARMS[name].advice in sentence
    for metric in ALARMS[name].metrics:
        assert metric in sentence


@pytest.mark.parametrize("name", OF_ONE_STEP)
def test_it_is_silent_just_below(name):
    assert series(name, healthy(name), steps=2 * ALARM_STEPS) == [[]] * (2 * ALARM_STEPS)


@pytest.mark.parametrize("name", OF_ONE_STEP)
def test_a_healthy_step_between_starts_the_count_again(name):
    alarms = Alarms(settings(**GROUPS))
    assert not any(series(name, at(name), steps=ALARM_STEPS - 1, alarms=alarms))
    assert alarms.check(step(ALARMS[name], healthy(name))) == []
    assert not any(alarms.check(step(ALARMS[name], at(name))) for _ in range(ALARM_STEPS - 1))
    assert alarms.check(step(ALARMS[name], at(name)))


FIRST = {"egrsd/correct_frac": 0.28, "egrsd/reward_mean": 0.28 * 1.22, "response_length/mean": 50.0}


def test_a_model_that_is_mostly_wrong_is_told_what_the_warm_up_does():
    """28 % right at a length bonus of .22 earn 0.28 * 1.22 = 0.34: 0.16 below the 0.5 of the paper's first steps."""
    alarms = Alarms(settings())
    (note,) = alarms.check(FIRST)
    assert "28% of the first step's responses are right and the mean reward is 0.34" in note
    assert "first 10 steps, reward - 0.5, pushes down on balance, here by 0.16 a response" in note
    assert "algorithm.egrsd.warmup_steps=1" in note
    assert alarms.check(FIRST) == []  # said of the first step
    resumed = Alarms(settings())
    resumed.load_state_dict(alarms.state_dict())
    assert resumed.check(FIRST) == []


@pytest.mark.parametrize(
    ("egrsd", "metrics"),
    [
        (settings(), FIRST | {"egrsd/correct_frac": 0.42, "egrsd/reward_mean": 0.42 * 1.22}),  # 0.51
        (settings(warmup_steps=1), FIRST),
        (settings(advantage="grpo"), FIRST),
        (settings("opsd"), FIRST),
    ],
)
def test_nothing_is_said_of_a_warm_up_that_does_not_push_down(egrsd, metrics):
    assert Alarms(egrsd).check(metrics) == []


@pytest.mark.parametrize("stopped", [1, 5, 20])
def test_a_resumed_run_knows_how_it_began(stopped):
    """Its state travels as JSON; without it a student that has already collapsed would count as the start."""
    before, resumed = Alarms(settings()), Alarms(settings())
    for length in range(stopped):
        before.check({"response_length/mean": 100.0 - length})
    resumed.load_state_dict(json.loads(json.dumps(before.state_dict())))
    said = [resumed.check({"response_length/mean": 50.0}) for _ in range(ALARM_STEPS)]
    assert "at most 50 (0.5 times the start, 100)" in said[-1][0]


def test_a_checkpoint_that_holds_ten_first_steps_is_read():
    alarms = Alarms(settings())
    alarms.load_state_dict({"length collapse": [100.0, 90.0], "entropy explosion": []})
    assert alarms.start == {"length collapse": 100.0}


def test_alarms_are_counted_apart():
    alarms = Alarms(settings())
    both = {"egrsd/truncated_frac": 0.5, "egrsd/correct_frac": 0.0}
    said = [alarms.check(both) for _ in range(ALARM_STEPS)][-1]
    assert [sentence.split(":")[0] for sentence in said] == ["EGRSD alarm, all wrong", "EGRSD alarm, truncation"]


@pytest.mark.parametrize("metrics", [{}, {"egrsd/ratio_clip_low_frac": 1.0}, {"egrsd/log_ratio_abs_mean": math.nan}])
def test_no_alarm_without_its_numbers(metrics):
    alarms = Alarms(settings())
    assert not any(alarms.check(metrics) for _ in range(2 * ALARM_STEPS))


REWARDS = {"all correct", "all wrong"}
SILENT = {
    "egrsd": {"no mixed problem"},
    "cl_egrsd": {"no mixed problem"},
    "egrsd_ungated": {"gate at its floor", "no mixed problem"},
    "egrsd_mean_gate": {"no mixed problem"},
    "rlsd": {"gate at its floor"},
    "ssopd": {"gate at its floor", "ratio clip saturated"},
    "oasis": {"gate at its floor", "ratio clip saturated", "no mixed problem"},  # what is pulled goes by rewards
    "dash": {"gate at its floor", "ratio clip saturated", "no mixed problem", *REWARDS},
    "hsd": {"gate at its floor", "ratio clip saturated", "no mixed problem", *REWARDS},
    "ogls_sd": {"gate at its floor", "ratio clip saturated", "no mixed problem"},  # a solution is a right guide, too
    "rlcsd": {"gate at its floor", "ratio clip saturated"},
    "sipo": {"gate at its floor", "ratio clip saturated", "no mixed problem"},  # a wrong answer is a guide, too
    "opsd": {"gate at its floor", "ratio clip saturated", "no mixed problem", *REWARDS},
    "op2sd": {"gate at its floor", "ratio clip saturated", "no mixed problem", *REWARDS},
    "copsd": {"gate at its floor", "ratio clip saturated", "no mixed problem", *REWARDS},
    "crisp": {"gate at its floor", "ratio clip saturated", "length collapse", "no mixed problem", *REWARDS},
}


def test_every_preset_is_listed():
    assert set(SILENT) == {path.stem for path in PRESETS.glob("*.yaml")}


@pytest.mark.parametrize("preset", SILENT)
def test_what_a_preset_switches_off_is_not_spoken_of(preset):
    assert switched_off(settings(preset)) == SILENT[preset]
    for name in SILENT[preset]:
        assert not any(series(name, at(name), steps=ALARM_STEPS, alarms=Alarms(settings(preset))))


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("floor", 1.0, "gate at its floor"),
        ("mixing", 0.0, "ratio clip saturated"),
        ("privilege", "none", "privilege inert"),
    ],
)
def test_what_a_key_switches_off_is_not_spoken_of(key, value, name):
    assert switched_off(settings(**GROUPS, **{key: value})) == {name}


def test_every_watched_metric_of_ours_exists():
    ours = {metric for alarm in ALARMS.values() for metric in alarm.metrics if metric.startswith("egrsd/")}
    assert ours <= set(metrics.METRICS)


def mixed(rewards: list[float], problems: str) -> float | None:
    found = metrics.reward_metrics(
        torch.tensor(rewards).float(),
        torch.zeros(len(rewards), dtype=torch.bool),
        problems,
        baseline_mean=0,
        baseline_std=0,
    )
    return found.get("egrsd/mixed_problems_frac")


def test_mixed_problems_by_hand():
    """a is mixed, b all right at different lengths, c all wrong, d has one response and is no group."""
    assert mixed([0, 1.2, 1, 1.4, 0, 0, 1], "aabbccd") == 1 / 3
    assert mixed([1, 0, 0, 1], "abab") == 1  # rows of a problem need not stand together
    assert mixed([1, 0], "ab") is None


@pytest.mark.parametrize(
    ("keys", "compares"),
    [
        ({"advantage": "grpo"}, True),
        ({"advantage": "rloo"}, True),
        ({"preset": "opsd"}, False),  # no reward is used, and group advantages are refused
        ({"preset": "oasis"}, False),  # where all are right, a right one is shown
        ({"preset": "oasis", "privilege": "peer_wrong"}, True),
        ({"preset": "oasis", "privilege": "peer_correct"}, False),  # right responses may show one another
        ({"preset": "ssopd", "advantage": "running"}, True),
        ({"preset": "rlcsd"}, True),
        ({"preset": "rlcsd", "advantage": "running"}, True),  # what is added needs both kinds all the same
        ({"preset": "sipo"}, False),  # where all are wrong, too, the right answer is held against each one's own
    ],
)
def test_who_needs_mixed_problems(keys, compares):
    assert settings(**keys).compares_within_groups == compares
