"""Wrong versions of the shaped reward and the running baseline of recipe/egrsd/method/advantage.py."""

import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from strategies import Rewards
from torch import Tensor
from weight_mutants import _mean

# ---------------------------------------------------------------- reward

REWARD_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no bonus": lambda c, n, *, max_length, length_bonus: c,
    "bonus for wrong answers": lambda c, n, *, max_length, length_bonus: c + length_bonus * (1 - n / max_length),
    "bonus grows with length": lambda c, n, *, max_length, length_bonus: c * (1 + length_bonus * n / max_length),
    "bonus only, without the 1": lambda c, n, *, max_length, length_bonus: c * length_bonus * (1 - n / max_length),
    "length taken off": lambda c, n, *, max_length, length_bonus: c * (1 - length_bonus * n / max_length),
    "longest response instead of the limit": lambda c, n, *, max_length, length_bonus: (
        c * (1 + length_bonus * (1 - n / n.max()))
    ),
    "bonus of 1/2 hard-coded": lambda c, n, *, max_length, length_bonus: c * (1 + 0.5 * (1 - n / max_length)),
    "wrong answers punished": lambda c, n, *, max_length, length_bonus: torch.where(
        c == 1, 1 + length_bonus * (1 - n / max_length), -1.0
    ),
}


# ---------------------------------------------------------------- baseline


def _population_std(values: Sequence[float], ddof: int = 0) -> float:
    mean = _mean(list(values))
    return math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - ddof, 1))


def _run(
    rewards: Rewards,
    *,
    use_own: bool = False,
    in_warmup: Callable[[int, int], bool] = lambda step, warmup_steps: step < warmup_steps,
    first_seen: Callable[[int], int] = lambda warmup_steps: 0,
    mean_of: Callable[[list[list[float]]], float] = lambda seen: _mean([*chain(*seen)]),
    std_of: Callable[[list[float]], float] = _population_std,
    whiten: Callable[[float, float, float, float], float] = lambda r, mean, std, least: (r - mean) / max(std, least),
) -> list[list[float]]:
    """The running baseline with one part exchanged; untouched it passes the check."""
    result = []
    for step, batch in enumerate(rewards.steps):
        seen = rewards.steps[first_seen(rewards.warmup_steps) : step + int(use_own)]
        if in_warmup(step, rewards.warmup_steps) or not seen:
            result.append([reward - rewards.warmup_mean for reward in batch])
        else:
            mean, std = mean_of(seen), std_of([*chain(*seen)])
            result.append([whiten(reward, mean, std, rewards.min_std) for reward in batch])
    return result


def _of_the_batch_itself(rewards: Rewards) -> list[list[float]]:
    return [[(r - _mean(step)) / max(_population_std(step), rewards.min_std) for r in step] for step in rewards.steps]


def _decayed_mean(seen: list[list[float]]) -> float:
    mean = _mean(seen[0])
    for step in seen[1:]:
        mean = 0.9 * mean + 0.1 * _mean(step)
    return mean


BASELINE_MUTANTS: dict[str, Callable[[Rewards], list[list[float]]]] = {
    "updated before use": lambda run: _run(run, use_own=True),
    "whitening in the warm-up": lambda run: _run(run, in_warmup=lambda step, warmup_steps: False),
    "warm-up one step short": lambda run: _run(run, in_warmup=lambda step, warmup_steps: step < warmup_steps - 1),
    "warm-up one step long": lambda run: _run(run, in_warmup=lambda step, warmup_steps: step <= warmup_steps),
    "warm-up mean hard-coded": lambda run: _run(run._replace(warmup_mean=0.5)),
    "statistics begin after the warm-up": lambda run: _run(run, first_seen=lambda warmup_steps: warmup_steps),
    "sample instead of population std": lambda run: _run(run, std_of=lambda values: _population_std(values, ddof=1)),
    "variance instead of std": lambda run: _run(run, std_of=lambda values: _population_std(values) ** 2),
    "mean of batch means": lambda run: _run(run, mean_of=lambda seen: _mean([_mean(step) for step in seen])),
    "last batch only": lambda run: _run(run, mean_of=lambda seen: _mean(seen[-1])),
    "decaying mean": lambda run: _run(run, mean_of=_decayed_mean),
    "mean not subtracted": lambda run: _run(run, whiten=lambda r, mean, std, least: r / max(std, least)),
    "not divided": lambda run: _run(run, whiten=lambda r, mean, std, least: r - mean),
    "min_std added": lambda run: _run(run, whiten=lambda r, mean, std, least: (r - mean) / (std + least)),
    "min_std ignored": lambda run: _run(run, whiten=lambda r, mean, std, least: (r - mean) / max(std, 1e-6)),
    "statistics of the batch itself": _of_the_batch_itself,
}
