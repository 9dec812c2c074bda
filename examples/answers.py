"""A model's answers to problems, and the paired difference of two models'."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev


@dataclass(frozen=True)
class Answers:
    """A model's answers to all problems, one entry for each, in the order of the problems."""

    correct: Sequence[float]
    """1 where the recipe's reward accepts the answer, else 0."""
    lengths: Sequence[int]
    """Response tokens, the end-of-turn token included."""


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences and its standard error."""

    mean: float
    error: float


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """after - before on the same problems."""
    differences = [late - early for early, late in zip(before, after, strict=True)]
    return Difference(mean(differences), stdev(differences) / len(differences) ** 0.5)
