"""recipe/egrsd/evaluate/statistics.py against enumeration, against simulation, and where nothing can be said."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipe.egrsd.evaluate.statistics import (
    Difference,
    Estimate,
    clustered_mean,
    macro_difference,
    macro_mean,
    majority,
    paired_difference,
    pass_at,
    sampling_error,
)

SIMULATIONS = 2000


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_the_subsets_with_a_correct_sample(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    expected = np.mean([any(subset) for subset in combinations(correct, k)])
    assert pass_at(np.array([correct]), k) == pytest.approx([expected], abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow():
    correct = np.zeros((1, 5000), dtype=bool)
    correct[0, :10] = True
    assert 0.18 < pass_at(correct, 100)[0] < 0.19  # 1 - 0.98^10


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_refuses_more_samples_than_there_are(k):
    with pytest.raises(ValueError, match=f"pass@{k} needs at least {k} samples of each problem; there are 4"):
        pass_at(np.zeros((2, 4), dtype=bool), k)


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "7", "8"], [1, 1, 0], 1),
        (["8", "7", "8"], [0, 1, 0], 0),
        (["7", "8"], [1, 0], 0.5),  # a tie: what a coin would give
        (["7", "7", "8", "8", "9"], [1, 1, 0, 0, 0], 0.5),
        (["7", "8", "9"], [1, 0, 0], 1 / 3),
        ([None, None, "7"], [0, 0, 1], 1),  # no answer is no vote
        ([None, None], [0, 0], 0),
    ],
)
def test_majority(answers, correct, expected):
    for order in permutations(range(len(answers))):
        assert majority([answers[i] for i in order], [correct[i] for i in order]) == pytest.approx(expected)


def responses(rng: np.random.Generator, num_problems: int, num_samples: int) -> np.ndarray:
    """Problems of very different difficulty, as benchmarks have them: the samples of one resemble each other."""
    chances = rng.beta(0.4, 0.4, size=num_problems)
    return (rng.random((num_problems, num_samples)) < chances[:, None]).astype(float)


def test_the_clustered_error_is_the_spread_over_new_problems():
    rng = np.random.default_rng(0)
    runs = [responses(rng, 30, 4) for _ in range(SIMULATIONS)]
    spread = np.std([run.mean() for run in runs])
    assert np.mean([clustered_mean(run).se for run in runs]) == pytest.approx(spread, rel=0.05)
    naive = np.mean([run.std(ddof=1) / np.sqrt(run.size) for run in runs])
    assert naive < 0.65 * spread  # as if 120 samples of 30 problems were 120 problems


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**31))
def test_the_clustered_error_is_the_usual_sandwich(num_problems, num_samples, seed):
    values = np.random.default_rng(seed).normal(size=(num_problems, num_samples))
    sums = (values - values.mean()).sum(axis=1)
    sandwich = np.sqrt((sums**2).sum() * num_problems / (num_problems - 1)) / values.size
    assert clustered_mean(values).se == pytest.approx(sandwich)


def test_the_sampling_error_is_the_spread_over_new_samples_of_the_same_problems():
    rng = np.random.default_rng(1)
    chances = rng.beta(0.4, 0.4, size=30)[:, None]
    for num_samples in (4, 16):
        runs = [(rng.random((30, num_samples)) < chances).astype(float) for _ in range(SIMULATIONS)]
        error = np.sqrt(np.mean([sampling_error(run) ** 2 for run in runs]))
        assert error == pytest.approx(np.std([run.mean() for run in runs]), rel=0.05)
        assert error <= np.sqrt(0.25 / runs[0].size)


def test_the_reason_for_16_samples():
    """The figure of --help: 120 responses at 45 %, if every one of them were a coin of its own."""
    rng = np.random.default_rng(2)
    errors = [[sampling_error((rng.random((30, k)) < 0.45).astype(float)) for _ in range(400)] for k in (4, 16)]
    assert np.mean(errors[0]) == pytest.approx(0.045, abs=0.001)
    assert np.mean(errors[1]) == pytest.approx(0.0225, abs=0.001)


def test_the_interval_of_a_paired_difference_covers_the_truth():
    rng = np.random.default_rng(3)
    covered, small, errors, unpaired = 0, 0, [], []
    for _ in range(SIMULATIONS):
        chances = rng.uniform(0.1, 0.9, size=(40, 1))
        before, after = ((rng.random((40, 8)) < chances + shift).mean(axis=1) for shift in (0.0, 0.05))
        difference = paired_difference(before, after)
        covered += difference.low <= 0.05 <= difference.high
        small += difference.p_value < 0.05
        errors.append(difference.se)
        unpaired.append(np.hypot(stats.sem(before), stats.sem(after)))
    assert covered / SIMULATIONS == pytest.approx(0.95, abs=0.02)
    assert small / SIMULATIONS > 0.2  # 5 points are seen now and then
    assert np.mean(errors) < 0.7 * np.mean(unpaired)  # the problems' own difficulty cancels


def test_a_paired_difference_is_the_paired_t_test():
    before, after = np.array([0.25, 0.5, 1.0, 0.0]), np.array([0.5, 0.5, 1.0, 0.75])
    test = stats.ttest_rel(after, before)
    difference = paired_difference(before, after)
    assert difference.p_value == pytest.approx(test.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert difference.value == 0.25
    swapped = paired_difference(after, before)
    assert (swapped.value, swapped.p_value) == (-0.25, pytest.approx(difference.p_value))


def test_where_nothing_can_be_said():
    assert clustered_mean(np.array([[1.0, 0.0]])) == Estimate(0.5, None)  # one problem
    assert sampling_error(np.array([[1.0], [0.0]])) is None  # one sample
    assert paired_difference(np.array([0.0]), np.array([1.0])) == Difference(1.0, None, None, None, None)
    same = np.array([0.5, 1.0])
    assert paired_difference(same, same) == Difference(0.0, 0.0, 0.0, 0.0, 1.0)
    assert paired_difference(same, same + 0.25).p_value is None  # two problems that agree prove nothing
    assert macro_mean([Estimate(0.5, 0.1), Estimate(1.0, None)]) == Estimate(0.75, None)
    assert macro_difference([Difference(0.5, None, None, None, None)]) == Difference(0.5, None, None, None, None)


def test_the_mean_over_benchmarks_gives_each_the_same_weight():
    assert macro_mean([Estimate(0.2, 0.03), Estimate(0.8, 0.04)]) == Estimate(0.5, pytest.approx(0.025))
    rng = np.random.default_rng(4)
    differences = [paired_difference(*rng.random((2, size))) for size in (20, 50)]
    macro = macro_difference(differences)
    assert macro.value == pytest.approx(np.mean([d.value for d in differences]))
    assert macro.se == pytest.approx(np.hypot(*(d.se for d in differences)) / 2)
    assert macro.low == pytest.approx(macro.value - 1.96 * macro.se, rel=1e-3)
    assert macro.p_value == pytest.approx(2 * stats.norm.sf(abs(macro.value) / macro.se))
