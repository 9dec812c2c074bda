"""Means over seeds, and differences between methods that share the seeds. A seed, not a problem, is the unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from scipy.stats import sem, ttest_rel

START, CONTROL = "start", "egrsd_ungated"
# What is compared: heading, factor for showing, decimals.
MEASURES = {
    "accuracy": ("accuracy, %", 100, 1),
    "rollout_accuracy": ("accuracy of all training rollouts, %", 100, 1),
    "length": ("response length, tokens", 1, 1),
    "fork_entropy": ("student's entropy at forks, nats", 1, 3),
}

Runs = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Method -> seed -> measure -> value."""


@dataclass(frozen=True)
class Mean:
    """Over seeds."""

    value: float
    error: float | None
    """Standard error; None for a single seed."""
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Method minus control over the seeds that both have."""

    value: float
    low: float
    high: float
    """The two ends of the 95 % interval of Student's t for pairs."""
    p_value: float
    each: list[float]
    """By seed."""


def mean_of(runs: Runs, method: str, measure: str) -> Mean | None:
    """None if the method was not measured so."""
    values = [run[measure] for run in runs.get(method, {}).values() if measure in run]
    if not values:
        return None
    return Mean(mean(values), sem(values).item() if len(values) > 1 else None, len(values))


def difference_of(runs: Runs, method: str, measure: str, control: str = CONTROL) -> Difference | None:
    """None for what is not trained, and with fewer than two seeds in common: one difference has no error."""
    ours, theirs = runs.get(method, {}), runs.get(control, {})
    seeds = [seed for seed in ours if seed in theirs and measure in ours[seed] and measure in theirs[seed]]
    if method in (START, control) or len(seeds) < 2:
        return None
    pairs = [(ours[seed][measure], theirs[seed][measure]) for seed in seeds]
    test = ttest_rel(*zip(*pairs, strict=True))
    low, high = test.confidence_interval(0.95)
    each = [a - b for a, b in pairs]
    return Difference(mean(each), float(low), float(high), float(test.pvalue), each)


def comparison_table(runs: Runs) -> str:
    """Every measure of every method, as text."""
    width = max(map(len, runs))
    blocks = []
    for measure, (heading, factor, decimals) in MEASURES.items():
        lines = [f"{heading}: mean ± standard error over seeds; minus {CONTROL}, paired by seed, with 95 % interval"]
        for method in runs:
            if average := mean_of(runs, method, measure):
                line = f"  {method:{width}s}  n={average.seeds}  {average.value * factor:8.{decimals}f}"
                line += "" if average.error is None else f" ± {average.error * factor:.{decimals}f}"
                if found := difference_of(runs, method, measure):
                    ends = f"[{found.low * factor:+.{decimals}f}, {found.high * factor:+.{decimals}f}]"
                    line += f"   {found.value * factor:+.{decimals}f} {ends}  p = {found.p_value:.3f}"
                lines.append(line)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
