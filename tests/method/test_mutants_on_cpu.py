"""Every check of the maths can fail: plausible wrong versions, each rejected by the check that the real one passes.

A mutant differs from the paper in the one thing that its name says. The inputs are fixed: no rejection is luck.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain

import pytest
import torch
from formula_checks import (
    GOLDEN,
    check_entropy_gate,
    check_entropy_scale,
    check_lookahead_entropy,
    check_ratio_weight,
    check_running_baseline,
    check_shaped_reward,
    check_token_advantages,
    golden_batch,
    run_baseline,
    token_advantages,
)
from strategies import Batch, Rewards, Scores, batch_from_seed, make_batch, rewards_from_seed
from torch import Tensor

from recipe.egrsd.method import advantage, weights


def _tidy(batch: Batch) -> Batch:
    """Ordinary numbers under the mask, so that a mutant is caught for its fault and not for a NaN it meets."""
    finite = {name: torch.where(batch.response_mask, getattr(batch, name), 0.5) for name in Batch._fields[:3]}
    return batch._replace(**finite)


HOLE = (False, 0.0, 0.0, 0.0)
BATCHES = [
    *(golden_batch(case) for case in GOLDEN["cases"]),
    # a sure token behind a hole, and the window ends on it
    make_batch(
        [[(True, -1.0, -1.1, 4.0), HOLE, (True, -1.0, -0.9, 1.0)], [(True, -0.5, -0.6, 2.0)]],
        [1.0, -1.0],
        window=2,
        gamma=0.5,
        floor=0.1,
        clip_range=0.2,
        min_nats=1.0,
    ),
    *(batch_from_seed(seed) for seed in range(20)),
    *(_tidy(batch_from_seed(seed)) for seed in range(20, 60)),
]
SCORES = [
    Scores(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([100, 100, 900, 800]), 1024, length_bonus)
    for length_bonus in (0.5, 0.1)
]
REWARDS = [
    *(rewards_from_seed(seed) for seed in range(20)),
    Rewards([[0.0, 1.0, 1.5], [1.25], [0.0, 1.0], [1.5, 1.5, 0.0]], warmup_steps=2, warmup_mean=0.5, min_std=0.25),
]


# ---------------------------------------------------------------- magnitude


def _ratio(log_ratio: Tensor, clip_range: float) -> Tensor:
    return log_ratio.exp().clamp(1 - clip_range, 1 + clip_range)


def _sign_of_0_is_plus(student: Tensor, teacher: Tensor, advantages: Tensor, *, clip_range: float) -> Tensor:
    return _ratio(torch.where(advantages >= 0, 1.0, -1.0) * (teacher - student), clip_range)


def _one_weight_per_response(student: Tensor, teacher: Tensor, advantages: Tensor, *, clip_range: float) -> Tensor:
    mean = (advantages.sign() * (teacher - student)).nanmean(dim=-1, keepdim=True)
    return _ratio(mean, clip_range).expand_as(student)


RATIO_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "sign dropped": lambda s, t, a, *, clip_range: _ratio(t - s, clip_range),
    "teacher and student swapped": lambda s, t, a, *, clip_range: _ratio(a.sign() * (s - t), clip_range),
    "advantage instead of its sign": lambda s, t, a, *, clip_range: _ratio(a * (t - s), clip_range),
    "sign(0) is plus": _sign_of_0_is_plus,
    "clip in log space": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).clamp(-clip_range, clip_range).exp(),
    "clip to 1 / (1 + eps) below": lambda s, t, a, *, clip_range: (
        (a.sign() * (t - s)).exp().clamp(1 / (1 + clip_range), 1 + clip_range)
    ),
    "no clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp(),
    "no upper clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp().clamp(min=1 - clip_range),
    "no lower clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp().clamp(max=1 + clip_range),
    "linear instead of exponential": lambda s, t, a, *, clip_range: (1 + a.sign() * (t - s)).clamp(
        1 - clip_range, 1 + clip_range
    ),
    "sign after the clip": lambda s, t, a, *, clip_range: a.sign() * _ratio(t - s, clip_range),
    "difference of probabilities": lambda s, t, a, *, clip_range: _ratio(a.sign() * (t.exp() - s.exp()), clip_range),
    "one weight per response": _one_weight_per_response,
    "clip range ignored": lambda s, t, a, *, clip_range: _ratio(a.sign() * (t - s), 0.2),
}


# ---------------------------------------------------------------- lookahead


def _over_window(
    entropy: Tensor, mask: Tensor, offsets: Sequence[int], fn: Callable[[list[float]], float] = min, skip: bool = True
) -> Tensor:
    """fn over the positions t + offset of the same row; masked ones are left out unless skip is False."""
    result = entropy.clone()
    length = entropy.size(-1)
    for i, row in enumerate(entropy.tolist()):
        is_token = mask[i].tolist()
        for t in range(length):
            inside = [j for j in (t + offset for offset in offsets) if 0 <= j < length]
            values = [row[j] for j in inside if is_token[j] or not skip]
            if values:
                result[i, t] = fn(values)
    return result


def _capped(entropy: Tensor, window: int) -> int:
    return min(window, entropy.size(-1))


def _faithful(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    return _over_window(entropy, mask, range(_capped(entropy, window) + 1))


def _across_rows(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    return _faithful(entropy.reshape(1, -1), mask.reshape(1, -1), window=window).reshape(entropy.shape)


def _wraps_around(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    twice = _over_window(entropy.repeat(1, 2), mask.repeat(1, 2), range(_capped(entropy, window) + 1))
    return twice[:, : entropy.size(-1)]


def _stops_at_a_hole(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    result = entropy.clone()
    for i, t in mask.nonzero().tolist():
        for j in range(t, min(t + window, entropy.size(-1) - 1) + 1):
            if not mask[i, j]:
                break
            result[i, t] = torch.minimum(result[i, t], entropy[i, j])
    return result


def _window_counts_tokens(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    result = entropy.clone()
    for i in range(entropy.size(0)):
        tokens = entropy[i][mask[i]].unsqueeze(0)
        result[i][mask[i]] = _faithful(tokens, torch.ones_like(tokens, dtype=torch.bool), window=window).squeeze(0)
    return result


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


LOOKAHEAD_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no lookahead": lambda h, m, *, window: h,
    "max instead of min": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), max),
    "mean instead of min": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), _mean),
    "window one short": lambda h, m, *, window: _over_window(h, m, range(max(1, _capped(h, window)))),
    "window one long": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 2)),
    "without the token itself": lambda h, m, *, window: _over_window(h, m, range(1, _capped(h, window) + 1)),
    "window reads the past": lambda h, m, *, window: _over_window(h, m, range(-_capped(h, window), 1)),
    "window reads both sides": lambda h, m, *, window: _over_window(
        h, m, range(-_capped(h, window), _capped(h, window) + 1)
    ),
    "reads masked positions": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), skip=False),
    "masked positions count as 0": lambda h, m, *, window: _over_window(
        h.masked_fill(~m, 0.0), m, range(_capped(h, window) + 1), skip=False
    ),
    "stops at a hole": _stops_at_a_hole,
    "window counts tokens, not positions": _window_counts_tokens,
    "crosses rows": _across_rows,
    "wraps around": _wraps_around,
    "whole rest of the response": lambda h, m, *, window: _faithful(h, m, window=h.size(-1)),
}


# ---------------------------------------------------------------- scale and gate


def _largest(entropy: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, entropy, -torch.inf).flatten().max() if mask.any() else torch.tensor(0.0)


def _mean_scale(entropy: Tensor, mask: Tensor, *, min_nats: float) -> Tensor:
    return entropy[mask].mean().clamp(min=min_nats) if mask.any() else torch.tensor(min_nats)


SCALE_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no 1-nat bound": lambda h, m, *, min_nats: _largest(h, m),  # noqa: PLW0108  it drops min_nats
    "bound added, not compared": lambda h, m, *, min_nats: _largest(h, m) + min_nats,
    "min instead of max with the bound": lambda h, m, *, min_nats: _largest(h, m).clamp(max=min_nats),
    "bound of 1 nat hard-coded": lambda h, m, *, min_nats: _largest(h, m).clamp(min=1.0),
    "log of the vocabulary size": lambda h, m, *, min_nats: torch.tensor(math.log(151_936)),
    "mean instead of max": _mean_scale,
    "padding included": lambda h, m, *, min_nats: torch.cat([h.flatten(), torch.tensor([min_nats])]).max(),
    "first response only": lambda h, m, *, min_nats: _largest(h[:1], m[:1]).clamp(min=min_nats),
    "entropy in bits": lambda h, m, *, min_nats: (_largest(h, m) / math.log(2)).clamp(min=min_nats),
}

GATE_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no gate": lambda h, scale, *, gamma, floor: torch.ones_like(h),
    "floor forgotten": lambda h, scale, *, gamma, floor: (1 - gamma * h / scale).clamp(0.0, 1.0),
    "nothing clipped": lambda h, scale, *, gamma, floor: 1 - gamma * h / scale,
    "floor hard-coded": lambda h, scale, *, gamma, floor: (1 - gamma * h / scale).clamp(0.1, 1.0),
    "floor by interpolation": lambda h, scale, *, gamma, floor: (
        floor + (1 - floor) * (1 - gamma * h / scale).clamp(0, 1)
    ),
    "not normalised": lambda h, scale, *, gamma, floor: (1 - gamma * h).clamp(floor, 1.0),
    "normalised by log V": lambda h, scale, *, gamma, floor: (1 - gamma * h / math.log(151_936)).clamp(floor, 1.0),
    "entropy in bits": lambda h, scale, *, gamma, floor: (1 - gamma * h / math.log(2) / scale).clamp(floor, 1.0),
    "gamma ignored": lambda h, scale, *, gamma, floor: (1 - h / scale).clamp(floor, 1.0),
    "hyperbola": lambda h, scale, *, gamma, floor: (1 / (1 + gamma * h / scale)).clamp(floor, 1.0),
    "exponential": lambda h, scale, *, gamma, floor: (-gamma * h / scale).exp().clamp(floor, 1.0),
    "rises with entropy": lambda h, scale, *, gamma, floor: (1 - gamma * (1 - h / scale)).clamp(floor, 1.0),
    "squared": lambda h, scale, *, gamma, floor: (1 - gamma * (h / scale) ** 2).clamp(floor, 1.0),
}


# ---------------------------------------------------------------- the product


def _parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w, filtered entropy, scale, g of the real implementation."""
    args = batch.student_log_probs, batch.teacher_log_probs, batch.advantages
    entropy = weights.lookahead_entropy(batch.entropy, batch.response_mask, window=batch.window)
    scale = weights.entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    gate = weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)
    return weights.ratio_weight(*args, clip_range=batch.clip_range), entropy, scale, gate


def _scale_of_filtered_entropy(batch: Batch) -> Tensor:
    weight, entropy, _, _ = _parts(batch)
    scale = weights.entropy_scale(entropy, batch.response_mask, min_nats=batch.min_nats)
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _scale_per_row(batch: Batch) -> Tensor:
    weight, entropy, _, _ = _parts(batch)
    largest = torch.where(batch.response_mask, batch.entropy, 0.0)
    if largest.numel():
        largest = largest.amax(dim=-1, keepdim=True)
    scale = largest.clamp(min=batch.min_nats)
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _gate_inside_the_clip(batch: Batch) -> Tensor:
    log_ratio = batch.advantages.sign() * (batch.teacher_log_probs - batch.student_log_probs)
    inside = (log_ratio.exp() * _parts(batch)[3]).clamp(1 - batch.clip_range, 1 + batch.clip_range)
    return batch.advantages * inside


def _gate_scales_the_log_ratio(batch: Batch) -> Tensor:
    log_ratio = batch.advantages.sign() * (batch.teacher_log_probs - batch.student_log_probs)
    return batch.advantages * _ratio(log_ratio * _parts(batch)[3], batch.clip_range)


def _gate_of_raw_entropy(batch: Batch) -> Tensor:
    weight, _, scale, _ = _parts(batch)
    return batch.advantages * weight * weights.entropy_gate(batch.entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _gate_averages_raw_and_filtered_entropy(batch: Batch) -> Tensor:
    weight, entropy, scale, _ = _parts(batch)
    entropy = (entropy + batch.entropy) / 2
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _floor_of_the_product(batch: Batch) -> Tensor:
    weight, entropy, scale, _ = _parts(batch)
    gate = weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=0.0)
    return batch.advantages * (weight * gate).clamp(min=batch.floor)


def _half_of_the_weight(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages * (0.5 + 0.5 * weight) * gate  # RLSD's lambda


def _mean_weight_1(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    product = weight * gate
    return batch.advantages * product / product[batch.response_mask].mean()


def _magnitude_of_the_advantage_dropped(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages.sign() * weight * gate


def _only_positive_responses_gated(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages * weight * torch.where(batch.advantages > 0, gate, 1.0)


PRODUCT_MUTANTS: dict[str, Callable[[Batch], Tensor]] = {
    "scale of the filtered entropy": _scale_of_filtered_entropy,
    "scale per row": _scale_per_row,
    "gate inside the clip": _gate_inside_the_clip,
    "gate scales the log-ratio": _gate_scales_the_log_ratio,
    "gate of the raw entropy": _gate_of_raw_entropy,
    "gate averages raw and filtered entropy": _gate_averages_raw_and_filtered_entropy,
    "floor of the product": _floor_of_the_product,
    "half of the weight": _half_of_the_weight,
    "weights of mean 1": _mean_weight_1,
    "magnitude of the advantage dropped": _magnitude_of_the_advantage_dropped,
    "only positive responses gated": _only_positive_responses_gated,
}


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


# ---------------------------------------------------------------- the tests

CHECKS: dict[str, tuple[Callable, Sequence, Callable, dict[str, Callable]]] = {
    "ratio_weight": (check_ratio_weight, BATCHES, weights.ratio_weight, RATIO_MUTANTS),
    "lookahead_entropy": (check_lookahead_entropy, BATCHES, weights.lookahead_entropy, LOOKAHEAD_MUTANTS),
    "entropy_scale": (check_entropy_scale, BATCHES, weights.entropy_scale, SCALE_MUTANTS),
    "entropy_gate": (check_entropy_gate, BATCHES, weights.entropy_gate, GATE_MUTANTS),
    "token_advantages": (check_token_advantages, BATCHES, token_advantages, PRODUCT_MUTANTS),
    "shaped_reward": (check_shaped_reward, SCORES, advantage.shaped_reward, REWARD_MUTANTS),
    "running_baseline": (check_running_baseline, REWARDS, run_baseline, BASELINE_MUTANTS),
}


def run_check(name: str, implementation: Callable) -> None:
    check, inputs, _, _ = CHECKS[name]
    for given in inputs:
        check(implementation, given)


@pytest.mark.parametrize("name", CHECKS)
def test_the_real_one_passes(name: str):
    run_check(name, CHECKS[name][2])


@pytest.mark.parametrize(
    ("name", "mutant"), [(name, mutant) for name, (_, _, _, mutants) in CHECKS.items() for mutant in mutants]
)
def test_the_check_rejects(name: str, mutant: str):
    with pytest.raises(AssertionError):
        run_check(name, CHECKS[name][3][mutant])


def test_the_loops_behind_the_mutants_are_right_when_untouched():
    """Otherwise a mutant could be rejected for a fault that all of them share."""
    run_check("lookahead_entropy", _faithful)
    run_check("running_baseline", _run)
    run_check("ratio_weight", lambda s, t, a, *, clip_range: _ratio(a.sign() * (t - s), clip_range))
    run_check("token_advantages", lambda batch: batch.advantages * _parts(batch)[0] * _parts(batch)[3])
    run_check("entropy_scale", lambda h, m, *, min_nats: _largest(h, m).clamp(min=min_nats))
