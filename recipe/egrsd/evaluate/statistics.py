"""Estimators over repeated samples of the same problems. Pure functions on arrays, numpy and scipy only.

Arrays have the shape (P, K): P problems, K samples of each. Samples of one problem are not independent, so every
standard error here is clustered by problem: it sees one number for each problem.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over problems."""

    value: float
    se: float | None
    """Standard error for other problems of this kind; None where one problem tells nothing about the spread."""


@dataclass(frozen=True)
class Difference:
    """Mean of B minus A over the same problems, with its paired standard error, 95 % interval and two-sided p-value.

    None: the problems are too few or too much alike to say.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    p_value: float | None


def clustered_mean(values: np.ndarray) -> Estimate:
    """Mean over all samples. With as many samples of each problem the clustered error is that of the problems'
    means."""
    means = values.mean(axis=1)
    return Estimate(float(means.mean()), float(stats.sem(means)) if len(means) > 1 else None)


def sampling_error(values: np.ndarray) -> float | None:
    """Standard error of the mean if the same problems were answered again: the part that more samples make smaller."""
    num_problems, num_samples = values.shape
    if num_samples < 2:
        return None
    return float(np.sqrt(values.var(axis=1, ddof=1).sum() / num_samples) / num_problems)


def pass_at(correct: np.ndarray, k: int) -> np.ndarray:
    """(P,) unbiased estimates of the chance that at least one of k samples is correct: 1 - C(K - c, k) / C(K, k).

    Args:
        correct: bool, (P, K).
        k: 1 <= k <= K.
    """
    num_samples = correct.shape[1]
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of each problem; there are {num_samples}.")
    wrong = num_samples - correct.sum(axis=1)
    drawn = np.arange(k)  # C(w, k) / C(K, k) as a product of chances to draw one wrong sample after another
    return 1.0 - np.prod(np.clip(wrong[:, None] - drawn, 0, None) / (num_samples - drawn), axis=1)


def majority(answers: Sequence[Hashable | None], correct: Sequence[float]) -> float:
    """Score of the answer given most often by the samples of one problem.

    Several answers given equally often: the mean of their scores, which is what a coin would give. None does not vote;
    without any vote the score is 0.
    """
    scores: dict[Hashable, list[float]] = {}
    for answer, score in zip(answers, correct, strict=True):
        if answer is not None:
            scores.setdefault(answer, []).append(float(score))
    most = max(map(len, scores.values()), default=0)
    tied = [np.mean(given) for given in scores.values() if len(given) == most]
    return float(np.mean(tied)) if tied else 0.0


def macro_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over benchmarks, each with the same weight. They share no problems, so their errors are independent."""
    return Estimate(float(np.mean([estimate.value for estimate in estimates])), _joint_error([e.se for e in estimates]))


def paired_difference(before: np.ndarray, after: np.ndarray) -> Difference:
    """after - before, one number (P,) for each of the same problems in the same order; Student's t over the
    problems."""
    differences = after - before
    value = float(differences.mean())
    if len(differences) < 2:
        return Difference(value, None, None, None, None)
    if np.ptp(differences) == 0:  # t would be 0 / 0, or infinite on the word of a few problems that agree
        return Difference(value, 0.0, value, value, 1.0 if value == 0 else None)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(0.95)
    return Difference(
        value, float(stats.sem(differences)), float(interval.low), float(interval.high), float(test.pvalue)
    )


def macro_difference(differences: Sequence[Difference]) -> Difference:
    """Mean of the benchmarks' differences; the normal distribution, because every benchmark brings its own spread."""
    value = float(np.mean([difference.value for difference in differences]))
    se = _joint_error([difference.se for difference in differences])
    if se is None:
        return Difference(value, None, None, None, None)
    if se == 0:
        return Difference(value, 0.0, value, value, 1.0 if value == 0 else None)
    low, high = stats.norm.interval(0.95, loc=value, scale=se)
    return Difference(value, se, float(low), float(high), float(2 * stats.norm.sf(abs(value) / se)))


def _joint_error(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if not errors or len(known) < len(errors):
        return None
    return float(np.sqrt(np.sum(np.square(known))) / len(known))
