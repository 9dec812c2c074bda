"""The running baseline of recipe/egrsd/method/advantage.py against hand arithmetic, a loop oracle and the order of
Alg. 1 (use first, update after)."""

import copy
import json
import math

import pytest
import reference
import torch
from formula_checks import ATOL, check_running_baseline, run_baseline
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Rewards, few, reward_runs

from recipe.egrsd.method.advantage import RunningBaseline


def test_running_baseline_by_hand():
    # one warm-up step, rewards 0, 0, 1, 1.5: A = r - .5
    # seen: mean 2.5 / 4 = .625      population variance (2 * .625^2 + .375^2 + .875^2) / 4 = 1.6875 / 4 = .421875
    # std = .6495191      A(1.25) = .625 / .6495191 = .9622504      A(0) = -.9622504
    # then 1.25 and 0 are seen as well: mean 3.75 / 6 = .625 again, variance (1.6875 + 2 * .390625) / 6 = .4114583
    # std = .6414502      A(1) = .375 / .6414502 = .5846128
    baseline = RunningBaseline(warmup_steps=1)
    first, second, third = torch.tensor([0.0, 0.0, 1.0, 1.5]), torch.tensor([1.25, 0.0]), torch.tensor([1.0])
    assert baseline.advantages(first).tolist() == [-0.5, -0.5, 0.5, 1.0]
    baseline.update(first)
    assert baseline.advantages(second).tolist() == pytest.approx([0.9622504, -0.9622504], abs=ATOL, rel=0)
    baseline.update(second)
    assert baseline.advantages(third).tolist() == pytest.approx([0.5846128], abs=ATOL, rel=0)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(reward_runs())
def test_running_baseline_agrees_with_the_loop(rewards: Rewards):
    check_running_baseline(run_baseline, rewards)


@few
@given(reward_runs())
def test_mean_and_std_are_those_of_all_rewards_seen(rewards: Rewards):
    baseline = RunningBaseline()
    for step in rewards.steps:
        baseline.update(torch.tensor(step))
    seen = [reward for step in rewards.steps for reward in step]
    assert (baseline.mean, baseline.std) == pytest.approx(reference.mean_and_population_std(seen), abs=1e-9, rel=0)


def test_defaults_are_the_papers():
    """Ten steps of r - 0.5, the eleventh is whitened."""
    baseline, rewards = RunningBaseline(), torch.tensor([0.0, 1.0, 1.5, 1.5])  # mean 1, variance 1.5 / 4, std .6123724
    for _ in range(10):
        assert baseline.advantages(rewards).tolist() == [-0.5, 0.5, 1.0, 1.0]
        baseline.update(rewards)
    # -1 / .6123724 = -1.6329932      .5 / .6123724 = .8164966
    expected = [-1.6329932, 0.0, 0.8164966, 0.8164966]
    assert baseline.advantages(rewards).tolist() == pytest.approx(expected, abs=ATOL, rel=0)


@few
@given(reward_runs(), st.lists(st.floats(0.0, 1.5, width=32), min_size=1, max_size=8))
def test_a_batch_never_whitens_itself(rewards: Rewards, batch: list[float]):
    """The advantage of a response depends on its own reward and the past, not on who shares its batch."""
    baseline = RunningBaseline(rewards.warmup_steps, rewards.warmup_mean, rewards.min_std)
    for step in rewards.steps:
        baseline.update(torch.tensor(step))
    together = baseline.advantages(torch.tensor(batch))
    alone = torch.cat([baseline.advantages(torch.tensor([reward])) for reward in batch])
    assert torch.equal(together, alone)


def test_asking_changes_nothing():
    baseline = RunningBaseline(warmup_steps=0)
    baseline.update(torch.tensor([0.0, 1.0]))
    before = copy.deepcopy(baseline.state_dict())
    baseline.advantages(torch.tensor([9.0, 9.0]))
    assert baseline.state_dict() == before


def test_equal_rewards_have_advantage_0_not_nan():
    """std is 0; min_std stands in for it."""
    baseline = RunningBaseline(warmup_steps=1)
    baseline.update(torch.full((8,), 1.1))
    assert baseline.std == pytest.approx(0.0, abs=1e-12)
    assert baseline.advantages(torch.full((2,), 1.1)).tolist() == pytest.approx([0.0, 0.0], abs=ATOL)


def test_min_std_replaces_a_smaller_std_and_leaves_a_larger_one():
    rewards = torch.tensor([0.0, 1.0])  # mean .5, std .5
    for min_std, expected in [(0.25, 1.0), (2.0, 0.25)]:
        baseline = RunningBaseline(warmup_steps=1, min_std=min_std)
        baseline.update(rewards)
        assert baseline.advantages(torch.tensor([1.0])).tolist() == [expected]


def test_statistics_stay_exact_far_from_0():
    """Sums of squares in float32 would lose all of a std of 0.5 beside a mean of 10,000."""
    baseline = RunningBaseline(warmup_steps=0)
    for _ in range(200):
        baseline.update(torch.tensor([10_000.0, 10_001.0]))
    assert (baseline.mean, baseline.std) == pytest.approx((10_000.5, 0.5), abs=1e-9, rel=0)


@few
@given(reward_runs(), st.integers(0, 15))
def test_a_resumed_run_continues_identically(rewards: Rewards, stop: int):
    """The state survives JSON, so it needs nothing but numbers and text."""
    whole, resumed = [], []
    knobs = rewards.warmup_steps, rewards.warmup_mean, rewards.min_std
    baseline, second = RunningBaseline(*knobs), RunningBaseline(*knobs)
    for step, values in enumerate(rewards.steps):
        if step == stop:
            second.load_state_dict(json.loads(json.dumps(second.state_dict())))
            fresh = RunningBaseline(*knobs)
            fresh.load_state_dict(json.loads(json.dumps(second.state_dict())))
            second = fresh
        whole.append(baseline.advantages(torch.tensor(values)).tolist())
        resumed.append(second.advantages(torch.tensor(values)).tolist())
        baseline.update(torch.tensor(values))
        second.update(torch.tensor(values))
    assert whole == resumed and baseline.state_dict() == second.state_dict()


def test_a_state_does_not_share_memory_with_the_baseline():
    baseline = RunningBaseline()
    baseline.update(torch.tensor([1.0]))
    state = baseline.state_dict()
    frozen = copy.deepcopy(state)
    baseline.update(torch.tensor([0.0]))
    assert state == frozen


def test_a_state_with_a_missing_entry_is_refused():
    state = RunningBaseline().state_dict()
    for key in state:
        with pytest.raises(KeyError):
            RunningBaseline().load_state_dict({name: value for name, value in state.items() if name != key})


@pytest.mark.parametrize("rewards", [[], [0.0, math.nan], [math.inf]])
def test_an_empty_or_non_finite_batch_is_refused_and_leaves_no_trace(rewards: list[float]):
    baseline = RunningBaseline()
    before = baseline.state_dict()
    with pytest.raises(ValueError, match="at least one reward, all finite"):
        baseline.update(torch.tensor(rewards))
    assert baseline.state_dict() == before


@pytest.mark.parametrize("num_updates", [0, 1])
def test_advantages_are_detached_float32(num_updates: int):
    baseline = RunningBaseline(warmup_steps=1)
    rewards = torch.tensor([0.0, 1.0], requires_grad=True)
    for _ in range(num_updates):
        baseline.update(rewards)
    advantages = baseline.advantages(rewards)
    assert advantages.dtype == torch.float32 and not advantages.requires_grad


def test_an_empty_batch_has_no_advantages():
    assert RunningBaseline().advantages(torch.tensor([])).shape == (0,)
